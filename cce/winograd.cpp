// Winograd convolution F(4x4, 3x3) (Lavin & Gray 2016, arXiv 1509.09308) in float32: 3x3, stride 1, padding 1,
// channels last, channels in multiples of 16. 36 multiplications make 16 outputs, where the plain way takes 144.
//
// A block of tiles is transformed, multiplied and transformed back while it is in the cache. Threads share the
// images, (N, H, W, C); what comes out of an image does not depend on the others.

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <thread>
#include <vector>

namespace {

#if !defined(CCE_LANES) && defined(__AVX512F__)
#define CCE_LANES 16
#elif !defined(CCE_LANES)
#define CCE_LANES 8
#endif
// Rows of a product at a time: sums in 12 of 16 registers with AVX2, in 14 of 32 with AVX-512.
constexpr int LANES = CCE_LANES, ROWS = LANES == 16 ? 14 : 6, GRADIENT_ROWS = LANES == 16 ? 8 : 6;
constexpr int PANEL = 16, VECTORS = PANEL / LANES, POINTS = 36;
typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

struct Shape {
    long images, height, width, inputs, outputs;
    long down() const { return (height + 3) / 4; }
    long across() const { return (width + 3) / 4; }
    long tiles() const { return images * down() * across(); }
};

struct Release {
    void operator()(float* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<float, Release>;

Buffer reserve(size_t count) {
    void* p = std::aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
    if (!p) throw std::bad_alloc();
    return Buffer(static_cast<float*>(p));
}

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }

// One dimension of B^T d, of A^T m and of A g.
inline void into(const Vector* d, Vector* o, int step) {
    const Vector a = d[4] - 4.f * d[2], b = d[3] - 4.f * d[1], c = d[4] - d[2], e = 2.f * (d[3] - d[1]);
    o[0] = 4.f * d[0] - 5.f * d[2] + d[4];
    o[step] = a + b;
    o[2 * step] = a - b;
    o[3 * step] = c + e;
    o[4 * step] = c - e;
    o[5 * step] = 4.f * d[1] - 5.f * d[3] + d[5];
}

inline void out_of(const Vector* m, Vector* y, int step) {
    const Vector s = m[1] + m[2], d = m[1] - m[2], t = m[3] + m[4], e = m[3] - m[4];
    y[0] = m[0] + s + t;
    y[step] = d + 2.f * e;
    y[2 * step] = s + 4.f * t;
    y[3 * step] = d + 8.f * e + m[5];
}

inline void back(const Vector* g, Vector* z, int step) {
    const Vector a = g[0] + g[2], b = g[1] + g[3], c = g[0] + 4.f * g[2], d = 2.f * g[1] + 8.f * g[3];
    z[0] = g[0];
    z[step] = a + b;
    z[2 * step] = a - b;
    z[3 * step] = c + d;
    z[4 * step] = c - d;
    z[5 * step] = g[3];
}

// Where the pixels of tile number t are, `side` x `side` from `first` before its corner; pixels outside: `nothing`.
void corners(const Shape& s, long t, long side, long first, long channels, const float* x, const float* nothing,
             const float** at) {
    const long column = t % s.across(), row = t / s.across() % s.down(), image = t / (s.across() * s.down());
    const float* base = x + image * s.height * s.width * channels;
    for (long i = 0; i < side; ++i)
        for (long j = 0; j < side; ++j) {
            const long r = 4 * row + i - first, c = 4 * column + j - first;
            const bool inside = r >= 0 && r < s.height && c >= 0 && c < s.width;
            at[i * side + j] = inside ? base + (r * s.width + c) * channels : nothing;
        }
}

// B^T d B of one tile: to v[point][...], points `step` apart.
void transform_input(const float* const* at, float* v, long step, long channels) {
    for (long c = 0; c < channels; c += LANES) {
        Vector half[36], d[6], o[6];
        for (int j = 0; j < 6; ++j) {
            for (int i = 0; i < 6; ++i) d[i] = load(at[6 * i + j] + c);
            into(d, half + j, 6);
        }
        for (int i = 0; i < 6; ++i) {
            into(half + 6 * i, o, 1);
            for (int j = 0; j < 6; ++j) store(v + (6 * i + j) * step + c, o[j]);
        }
    }
}

// A g A^T of the gradient of one tile's outputs.
void transform_gradient(const float* const* at, float* z, long step, long channels) {
    for (long c = 0; c < channels; c += LANES) {
        Vector half[24], g[4], o[6];
        for (int j = 0; j < 4; ++j) {
            for (int i = 0; i < 4; ++i) g[i] = load(at[4 * i + j] + c);
            back(g, half + j, 4);
        }
        for (int i = 0; i < 6; ++i) {
            back(half + 4 * i, o, 1);
            for (int j = 0; j < 6; ++j) store(z + (6 * i + j) * step + c, o[j]);
        }
    }
}

// A^T m A of one tile, with bias, sum and ReLU, to its place in y.
void transform_output(const Shape& s, long t, const float* m, long step, const float* bias, const float* add, bool relu,
                      float* y) {
    const long column = t % s.across(), row = t / s.across() % s.down(), image = t / (s.across() * s.down());
    const long high = std::min(4L, s.height - 4 * row), wide = std::min(4L, s.width - 4 * column);
    const long corner = ((image * s.height + 4 * row) * s.width + 4 * column) * s.outputs;
    for (long c = 0; c < s.outputs; c += LANES) {
        Vector half[24], d[6], o[4];
        for (int j = 0; j < 6; ++j) {
            for (int i = 0; i < 6; ++i) d[i] = load(m + (6 * i + j) * step + c);
            out_of(d, half + j, 6);
        }
        const Vector b = bias ? load(bias + c) : Vector{};
        for (long i = 0; i < high; ++i) {
            out_of(half + 6 * i, o, 1);
            for (long j = 0; j < wide; ++j) {
                const long place = corner + (i * s.width + j) * s.outputs + c;
                Vector value = o[j] + b;
                if (add) value += load(add + place);
                if (relu) value = value < 0.f ? Vector{} : value;  // NaN stays
                store(y + place, value);
            }
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
    for (long k = 0; k < depth; ++k, a += along, b += b_step) {
        Vector w[VECTORS];
        for (int v = 0; v < VECTORS; ++v) w[v] = load(b + v * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const float one = a[r * across];
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; ++v) sum[r][v] += one * w[v];
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < VECTORS; ++v) store(out + r * out_step + v * LANES, sum[r][v]);
}

// Tiles at a time: their transforms take about so many bytes.
long tiles_at_once(const Shape& s, long bytes, long multiple) {
    const long each = POINTS * (s.inputs + s.outputs) * static_cast<long>(sizeof(float));
    const long fit = std::max(1L, bytes / each / multiple) * multiple;
    return std::min(fit, (s.tiles() + multiple - 1) / multiple * multiple);
}

const float G[6][3] = {{1.f / 4, 0, 0},           {-1.f / 6, -1.f / 6, -1.f / 6}, {-1.f / 6, 1.f / 6, -1.f / 6},
                       {1.f / 24, 1.f / 12, 1.f / 6}, {1.f / 24, -1.f / 12, 1.f / 6}, {0, 0, 1}};

void convolve(const Shape& s, const float* x, const float* u, const float* bias, const float* add, bool relu,
              float* y) {
    const long most = tiles_at_once(s, 384 << 10, ROWS);
    Buffer v = reserve(POINTS * most * s.inputs), m = reserve(POINTS * most * s.outputs), nothing = reserve(s.inputs);
    std::memset(nothing.get(), 0, s.inputs * sizeof(float));
    std::memset(v.get(), 0, POINTS * most * s.inputs * sizeof(float));  // rows past the last tile
    for (long first = 0; first < s.tiles(); first += most) {
        const long count = std::min(most, s.tiles() - first);
        for (long t = 0; t < count; ++t) {
            const float* at[36];
            corners(s, first + t, 6, 1, s.inputs, x, nothing.get(), at);
            transform_input(at, v.get() + t * s.inputs, most * s.inputs, s.inputs);
        }
        for (int p = 0; p < POINTS; ++p)
            for (long n = 0; n < s.outputs; n += PANEL) {
                const float* panel = u + (p * s.outputs + n) * s.inputs;
                for (long t = 0; t < count; t += ROWS)
                    block<ROWS, false>(v.get() + (p * most + t) * s.inputs, s.inputs, 1, panel, PANEL, s.inputs,
                                       m.get() + (p * most + t) * s.outputs + n, s.outputs);
            }
        for (long t = 0; t < count; ++t)
            transform_output(s, first + t, m.get() + t * s.outputs, most * s.outputs, bias, add, relu, y);
    }
}

// Sums over tiles of (B^T d B) (A g A^T), [point][input][output].
void gradient_sums(const Shape& s, const float* x, const float* g, float* sum) {
    const long most = tiles_at_once(s, 1536 << 10, 8), size = s.inputs * s.outputs;
    Buffer v = reserve(POINTS * most * s.inputs), z = reserve(POINTS * most * s.outputs);
    Buffer nothing = reserve(std::max(s.inputs, s.outputs));
    std::memset(nothing.get(), 0, std::max(s.inputs, s.outputs) * sizeof(float));
    std::memset(sum, 0, POINTS * size * sizeof(float));
    for (long first = 0; first < s.tiles(); first += most) {
        const long count = std::min(most, s.tiles() - first);
        for (long t = 0; t < count; ++t) {
            const float* at[36];
            corners(s, first + t, 6, 1, s.inputs, x, nothing.get(), at);
            transform_input(at, v.get() + t * s.inputs, most * s.inputs, s.inputs);
            corners(s, first + t, 4, 0, s.outputs, g, nothing.get(), at);
            transform_gradient(at, z.get() + t * s.outputs, most * s.outputs, s.outputs);
        }
        for (int p = 0; p < POINTS; ++p)
            for (long n = 0; n < s.outputs; n += PANEL) {
                const float *a = v.get() + p * most * s.inputs, *b = z.get() + p * most * s.outputs + n;
                float* to = sum + p * size + n;
                long i = 0;
                for (; i + GRADIENT_ROWS <= s.inputs; i += GRADIENT_ROWS)
                    block<GRADIENT_ROWS, true>(a + i, 1, s.inputs, b, s.outputs, count, to + i * s.outputs, s.outputs);
                for (; i < s.inputs; i += 2)
                    block<2, true>(a + i, 1, s.inputs, b, s.outputs, count, to + i * s.outputs, s.outputs);
            }
    }
}

// `work(part, first image, shape)` for every thread's share of the images; false where memory ran out.
template <class Work>
bool share(const Shape& s, long threads, Work work) {
    const long count = std::max(1L, std::min(threads, s.images));
    std::vector<char> failed(count, 0);
    auto run = [&](long k) {
        const long first = s.images * k / count, last = s.images * (k + 1) / count;
        try {
            work(k, first, Shape{last - first, s.height, s.width, s.inputs, s.outputs});
        } catch (const std::bad_alloc&) {
            failed[k] = 1;
        }
    };
    std::vector<std::thread> others;
    for (long k = 1; k < count; ++k) others.emplace_back(run, k);
    run(0);
    for (auto& other : others) other.join();
    return std::find(failed.begin(), failed.end(), 1) == failed.end();
}

}  // namespace

extern "C" {

// Weights (outputs, inputs, 3, 3), contiguous, made ready for `cce_winograd_conv`: [point][panel of outputs][input]
// [PANEL]. `flipped` gives those of the convolution that takes a gradient of the outputs to one of the inputs.
void cce_winograd_weights(const float* w, float* u, long inputs, long outputs, int flipped) {
    const long from = flipped ? outputs : inputs, to = flipped ? inputs : outputs;
    const long a_step = flipped ? inputs * 9 : 9, b_step = flipped ? 9 : inputs * 9;
    for (long n = 0; n < to; n += PANEL)
        for (long a = 0; a < from; ++a) {
            float k[9][PANEL], half[6][3][PANEL];
            for (int b = 0; b < PANEL; ++b)
                for (int i = 0; i < 9; ++i) k[i][b] = w[a * a_step + (n + b) * b_step + (flipped ? 8 - i : i)];
            for (int p = 0; p < 6; ++p)
                for (int c = 0; c < 3; ++c)
                    for (int b = 0; b < PANEL; ++b)
                        half[p][c][b] = G[p][0] * k[c][b] + G[p][1] * k[3 + c][b] + G[p][2] * k[6 + c][b];
            for (int p = 0; p < 6; ++p)
                for (int q = 0; q < 6; ++q) {
                    float* out = u + ((6 * p + q) * to + n) * from + a * PANEL;
                    for (int b = 0; b < PANEL; ++b)
                        out[b] = half[p][0][b] * G[q][0] + half[p][1][b] * G[q][1] + half[p][2][b] * G[q][2];
                }
        }
}

// y = conv(x) + bias + add, and ReLU of it; `bias` and `add` may be null. Returns 0, or 1 without memory.
int cce_winograd_conv(const float* x, const float* u, const float* bias, const float* add, float* y, long images,
                      long height, long width, long inputs, long outputs, int relu, long threads) try {
    return !share({images, height, width, inputs, outputs}, threads, [&](long, long first, const Shape& s) {
        const long to = first * height * width * outputs;
        convolve(s, x + first * height * width * inputs, u, bias, add ? add + to : nullptr, relu, y + to);
    });
} catch (...) {
    return 1;
}

// Gradient of the weights, (outputs, inputs, 3, 3), from the inputs x and the gradient g of the outputs.
int cce_winograd_weight_gradient(const float* x, const float* g, float* dw, long images, long height, long width,
                                 long inputs, long outputs, long threads) try {
    const long size = inputs * outputs, count = std::max(1L, std::min(threads, images));
    Buffer sums = reserve(count * POINTS * size);
    float* sum = sums.get();
    const bool done = share({images, height, width, inputs, outputs}, threads, [&](long k, long first, const Shape& s) {
        const long pixels = first * height * width;
        gradient_sums(s, x + pixels * inputs, g + pixels * outputs, sum + k * POINTS * size);
    });
    for (long k = 1; k < count; ++k)
        for (long i = 0; i < POINTS * size; ++i) sum[i] += sum[k * POINTS * size + i];
    for (long i = 0; i < inputs; ++i)
        for (long n = 0; n < outputs; n += PANEL) {
            float half[3][6][PANEL] = {};
            for (int p = 0; p < 6; ++p)
                for (int q = 0; q < 6; ++q)
                    for (int r = 0; r < 3; ++r)
                        for (int o = 0; o < PANEL; ++o)
                            half[r][q][o] += G[p][r] * sum[(6 * p + q) * size + i * outputs + n + o];
            for (int r = 0; r < 3; ++r)
                for (int c = 0; c < 3; ++c)
                    for (int o = 0; o < PANEL; ++o) {
                        float value = 0;
                        for (int q = 0; q < 6; ++q) value += half[r][q][o] * G[q][c];
                        dw[((n + o) * inputs + i) * 9 + 3 * r + c] = value;
                    }
        }
    return !done;
} catch (...) {
    return 1;
}
}
