// What the functions share: vectors, images, what becomes of a sum, and how threads divide the work.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace cce {

#if !defined(CCE_LANES) && defined(__AVX512F__)
#define CCE_LANES 16
#elif !defined(CCE_LANES)
#define CCE_LANES 8
#endif
// Rows of a product at a time: sums in 12 of 16 registers with AVX2, in 14 of 32 with AVX-512.
constexpr int LANES = CCE_LANES, ROWS = LANES == 16 ? 14 : 6, GRADIENT_ROWS = LANES == 16 ? 8 : 6;
constexpr int PANEL = 16, VECTORS = PANEL / LANES, POINTS = 36;
#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))
typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

struct Shape {
    long images, height, width, inputs, outputs;
    long down() const { return (height + 3) / 4; }
    long across() const { return (width + 3) / 4; }
    long tiles() const { return images * down() * across(); }
    long numbers() const { return images * height * width * outputs; }  // of what comes out
};

struct Release {
    void operator()(float* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<float, Release>;

inline Buffer reserve(size_t count) {
    void* p = std::aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
    if (!p) throw std::bad_alloc();
    return Buffer(static_cast<float*>(p));
}

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }

// Store past the cache, without reading what was there before; `p` is aligned.
inline void stream(float* p, Vector v) {
#if CCE_LANES == 16 && defined(__AVX512F__)
    _mm512_stream_ps(p, (__m512)v);
#else
    __m256 part[LANES / 8];
    std::memcpy(part, &v, sizeof v);
    for (int k = 0; k < LANES / 8; ++k) _mm256_stream_ps(p + 8 * k, part[k]);
#endif
}

inline void put(float* p, Vector v, bool past) { past ? stream(p, v) : store(p, v); }

// Whether so many numbers are more than stays in a cache until they are read.
inline bool streams(const float* to, long count) {
    return count * static_cast<long>(sizeof(float)) > (4 << 20) && reinterpret_cast<std::uintptr_t>(to) % 64 == 0;
}

// Signs of a vector, one bit for each number, and a vector with zeros where its bit is not set.
#if CCE_LANES == 16 && defined(__AVX512F__)
inline void mark(std::uint8_t* bits, Vector v) {
    const std::uint16_t positive = _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_GT_OQ);
    std::memcpy(bits, &positive, 2);
}

inline Vector keep(const std::uint8_t* bits, Vector v) {
    std::uint16_t set;
    std::memcpy(&set, bits, 2);
    return (Vector)_mm512_maskz_mov_ps(set, (__m512)v);
}
#else
inline void mark(std::uint8_t* bits, Vector v) {
    __m256 part[LANES / 8];
    std::memcpy(part, &v, sizeof v);
    for (int k = 0; k < LANES / 8; ++k) {
        const __m256 positive = _mm256_cmp_ps(part[k], _mm256_setzero_ps(), _CMP_GT_OQ);
        bits[k] = static_cast<std::uint8_t>(_mm256_movemask_ps(positive));
    }
}

inline Vector keep(const std::uint8_t* bits, Vector v) {
    const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256 part[LANES / 8];
    std::memcpy(part, &v, sizeof v);
    for (int k = 0; k < LANES / 8; ++k) {
        const __m256i set = _mm256_and_si256(_mm256_set1_epi32(bits[k]), each);
        part[k] = _mm256_and_ps(part[k], _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, each)));
    }
    std::memcpy(&v, part, sizeof v);
    return v;
}
#endif

// What becomes of a convolution's sums; each pointer may be null. `add` may be `y`. Functions take it by value: the
// compiler then knows that storing a number changes none of it.
struct Finish {
    float* y;
    const float *bias = nullptr, *add = nullptr;
    bool relu = false;
    std::uint8_t* marks = nullptr;       // signs of what comes out
    const std::uint8_t* kept = nullptr;  // outputs are zero where the bit is not set
    bool past = false;         // store past the cache; with a bias at most
};

// COUNT vectors, `step` floats apart from `place` on; what is to be done is asked once for all of them.
template <int COUNT>
INLINE void finish(Vector* value, const Finish f, std::size_t place, std::size_t step) {
    const std::size_t bits = place / 8, bits_step = step / 8;
    if (f.add)
        for (int i = 0; i < COUNT; ++i) value[i] += load(f.add + place + i * step);
    if (f.relu)
        for (int i = 0; i < COUNT; ++i) value[i] = value[i] < 0.f ? Vector{} : value[i];  // NaN stays
    if (f.kept)
        for (int i = 0; i < COUNT; ++i) value[i] = keep(f.kept + bits + i * bits_step, value[i]);
    if (f.marks)
        for (int i = 0; i < COUNT; ++i) mark(f.marks + bits + i * bits_step, value[i]);
    for (int i = 0; i < COUNT; ++i) store(f.y + place + i * step, value[i]);
}

INLINE void finish(Vector value, const Finish f, std::size_t place) { finish<1>(&value, f, place, 0); }

inline Vector bias_of(const Finish& f, long channel) { return f.bias ? load(f.bias + channel) : Vector{}; }

// sum += a w for R rows of a, a[r][k] at r * across + k * along, and V vectors of w for each k, `step` further on.
template <int R, int V>
INLINE void accumulate(Vector (&sum)[R][V], const float* a, long across, long along, const float* w, long step,
                       long depth) {
    for (long k = 0; k < depth; ++k, a += along, w += step) {
        Vector each[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) each[v] = load(w + v * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const float one = a[r * across];
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) sum[r][v] += one * each[v];
        }
    }
}

// R x PANEL of a product of depth `depth`: out (+)= a b, where a[r][k] lies at r * across + k * along.
template <int R, bool ADD>
inline void block(const float* a, long across, long along, const float* b, long b_step, long depth, float* out,
                  long out_step) {
    Vector sum[R][VECTORS];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = ADD ? load(out + r * out_step + v * LANES) : Vector{};
    accumulate(sum, a, across, along, b, b_step, depth);
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < VECTORS; ++v) store(out + r * out_step + v * LANES, sum[r][v]);
}

const float G[6][3] = {{1.f / 4, 0, 0},           {-1.f / 6, -1.f / 6, -1.f / 6}, {-1.f / 6, 1.f / 6, -1.f / 6},
                       {1.f / 24, 1.f / 12, 1.f / 6}, {1.f / 24, -1.f / 12, 1.f / 6}, {0, 0, 1}};

// out += a^T b for a[k][rows] at k * along and b[k][PANEL]: one panel of a gradient of weights.
inline void add_products(const float* a, long rows, long along, const float* b, long b_step, long depth, float* out,
                         long out_step) {
    long i = 0;
    for (; i + GRADIENT_ROWS <= rows; i += GRADIENT_ROWS)
        block<GRADIENT_ROWS, true>(a + i, 1, along, b, b_step, depth, out + i * out_step, out_step);
    for (; i + 4 <= rows; i += 4) block<4, true>(a + i, 1, along, b, b_step, depth, out + i * out_step, out_step);
    for (; i + 2 <= rows; i += 2) block<2, true>(a + i, 1, along, b, b_step, depth, out + i * out_step, out_step);
    if (i < rows) block<1, true>(a + i, 1, along, b, b_step, depth, out + i * out_step, out_step);
}

// From one tile's transform to the next one's: an odd number of the cache's lines, as the same point of many tiles
// would else fall on a few of its sets.
inline long stride_of(long channels) { return POINTS * channels + PANEL; }

// Tiles at a time, in sixes: their transforms, [tile][point][channel], take about so many bytes.
inline long tiles_at_once(const Shape& s, long bytes) {
    const long each = POINTS * (s.inputs + s.outputs) * static_cast<long>(sizeof(float));
    const long fit = std::max(1L, bytes / each / ROWS) * ROWS;
    return std::min(fit, (s.tiles() + ROWS - 1) / ROWS * ROWS);
}

// Room for a block of tiles, about so many bytes, of each of these shapes.
struct Room {
    long bytes;
    Buffer v, m, nothing;
    Room(std::initializer_list<Shape> shapes, long bytes) : bytes(bytes) {
        long from = 0, to = 0, channels = 0;
        for (const Shape& s : shapes) {
            const long tiles = tiles_at_once(s, bytes);
            from = std::max(from, tiles * stride_of(s.inputs)), to = std::max(to, tiles * stride_of(s.outputs));
            channels = std::max({channels, s.inputs, s.outputs});
        }
        v = reserve(from), m = reserve(to), nothing = reserve(channels);
        std::memset(v.get(), 0, from * sizeof(float));  // rows past the last tile
        std::memset(nothing.get(), 0, channels * sizeof(float));
    }
};

constexpr long CONVOLUTION_BYTES = 128 << 10;

// x convolved by the weights u made ready, finished by f.
void convolve(const Shape& s, const float* x, const float* u, Finish f, const Room& room);

// Bytes of a room for `gradient_sums`: many sums go through the cache with every block of tiles, which is then larger.
long gradient_bytes(const Shape& s);

// Adds the sums over tiles of (B^T d B) (A g A^T), [point][input][output], of the gradient of the weights.
void gradient_sums(const Shape& s, const float* x, const float* g, float* sum, const Room& room);

// Those sums of every part of the images; a part is to be cleared first. `finish` makes the gradient (outputs, inputs,
// 3, 3) of them; false where memory ran out.
struct WeightSums {
    long inputs, outputs, parts;
    Buffer sums;
    WeightSums(const Shape& s, long parts);
    long size() const { return POINTS * inputs * outputs; }
    float* of(long part) { return sums.get() + part * size(); }
    void clear(long part);
    bool finish(float* dw, long threads);

  private:
    void finish(float* dw, long input, long output);  // of PANEL outputs
};

// How PyTorch's own OpenMP runs a function in several threads (libgomp's GOMP_parallel, which LLVM's has too); null
// where it is not found. Its threads wait for their next work awake for a while: others beside them would have to share
// the cores with them.
using Parallel = void (*)(void (*work)(void*), void* data, unsigned threads, unsigned flags);
extern Parallel parallel;

// `work(k)` for every k below `count`, each in a thread of its own where there are as many; false where memory ran out.
template <class Work>
bool on_threads(long count, Work work) {
    std::vector<char> failed(count, 0);
    auto run = [&](long k) {
        try {
            work(k);
        } catch (const std::bad_alloc&) {
            failed[k] = 1;
        }
    };
    std::atomic<long> next{0};
    auto take = [&] {
        for (long k; (k = next++) < count;) run(k);
    };
    if (parallel && count > 1) {
        parallel([](void* data) { (*static_cast<decltype(take)*>(data))(); }, &take, count, 0);
    } else {
        std::vector<std::thread> others;
        try {
            for (long k = 1; k < count; ++k) others.emplace_back(take);
        } catch (const std::system_error&) {  // no more threads to be had
        }
        take();
        for (auto& other : others) other.join();
    }
    return std::find(failed.begin(), failed.end(), 1) == failed.end();
}

// `work(own, piece)` for every piece, each by the thread that is free for it: a core that is slower gets fewer. What a
// piece gives may not depend on who computes it. `own` is what `make` gives for each thread, called by the caller, who
// has memory from before. False where memory ran out.
template <class Make, class Work>
bool spread(long pieces, long threads, Make make, Work work) {
    std::atomic<long> next{0};
    const long count = std::max(1L, std::min(threads, pieces));
    std::vector<decltype(make())> own;
    for (long k = 0; k < count; ++k) own.push_back(make());
    return on_threads(count, [&](long k) {
        for (long piece; (piece = next++) < pieces;) work(own[k], piece);
    });
}

// Parts of so many images, some more than threads, as a core that is slower then gets fewer.
inline long parts_of(long images, long threads) { return threads < 2 ? 1 : std::min(images, 4 * threads); }

// The same for a gradient of weights: each part has sums of its own, and those of many weights take longer to clear and
// to add up than a slower core costs.
inline long gradient_parts(const Shape& s, long images, long threads) {
    return s.inputs * s.outputs > 64 * 64 ? std::min(images, threads) : parts_of(images, threads);
}

// `work(own, part, first image, images)` for every part, as `spread`.
template <class Make, class Work>
bool share(long images, long parts, long threads, Make make, Work work) {
    return spread(parts, threads, make, [&](const auto& own, long part) {
        const long first = images * part / parts;
        work(own, part, first, images * (part + 1) / parts - first);
    });
}

}  // namespace cce
