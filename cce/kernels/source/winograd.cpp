// Winograd convolution F(4x4, 3x3) (Lavin & Gray 2016, arXiv 1509.09308) in float32: 3x3, stride 1, padding 1,
// channels last, channels in multiples of 16. 36 multiplications make 16 outputs, where the plain way takes 144.
//
// A block of tiles is transformed, multiplied and transformed back while it is in the cache; a tile's transform lies
// in one piece, as 36 streams side by side push one another out of it. Threads share the images, (N, H, W, C); what
// comes out of an image does not depend on the others.

#include "common.h"

#include <type_traits>

using namespace cce;

namespace {

// A stretch of memory that is soon needed, fetched into the cache piece by piece while something is computed.
struct Ahead {
    const float *from, *to;
    void fetch(int piece) const {
        const long lines = (to - from) / 16, last = lines * (piece + 1) / POINTS;
        for (long i = lines * piece / POINTS; i < last; ++i) __builtin_prefetch(from + 16 * i);
    }
};

// One tile of 4 x 4 outputs: its image, and its corner's row and column.
struct Tile {
    long image, row, column;
    Tile(const Shape& s, long t)
        : image(t / (s.across() * s.down())), row(t / s.across() % s.down() * 4), column(t % s.across() * 4) {}
    void next(const Shape& s) {
        if ((column += 4) < s.width) return;
        column = 0;
        if ((row += 4) < s.height) return;
        row = 0, ++image;
    }
};

// The rows of an image of `channels` from tile number `first` to that of number `last`.
inline Ahead rows_of(const Shape& s, const float* x, long channels, long first, long last) {
    auto at = [&](long t) {
        const Tile tile(s, std::min(t, s.tiles()));
        return x + (tile.image * s.height + std::min(tile.row, s.height)) * s.width * channels;
    };
    return {at(first), at(last)};
}

// `read(at, channels)` with `at(i, j)` the pixel i, j of the `side` x `side` ones from `before` before the tile's
// corner, where pixels outside are `nothing`.
template <long side, long before, class Channels, class Read>
INLINE void pixels(const Shape& s, const Tile& t, const float* x, Channels channels, const float* nothing, Read read) {
    const long row = t.row - before, column = t.column - before, step = s.width * channels;
    const float* base = x + ((t.image * s.height + row) * s.width + column) * channels;
    if (row >= 0 && column >= 0 && row + side <= s.height && column + side <= s.width)
        return read([=](long i, long j) { return base + i * step + j * channels; }, channels);
    const float* at[side * side];
    for (long i = 0; i < side; ++i)
        for (long j = 0; j < side; ++j) {
            const bool inside = row + i >= 0 && row + i < s.height && column + j >= 0 && column + j < s.width;
            at[i * side + j] = inside ? base + i * step + j * channels : nothing;
        }
    const float* const* const found = at;
    read([=](long i, long j) { return found[i * side + j]; }, static_cast<long>(channels));
}

// One dimension of B^T d.
inline void into(const Vector* d, Vector* o, int step) {
    const Vector a = d[4] - 4.f * d[2], b = d[3] - 4.f * d[1], c = d[4] - d[2], e = d[3] - d[1];
    o[0] = 4.f * d[0] + (d[4] - 5.f * d[2]);
    o[step] = a + b;
    o[2 * step] = a - b;
    o[3 * step] = c + 2.f * e;
    o[4 * step] = c - 2.f * e;
    o[5 * step] = 4.f * d[1] + (d[5] - 5.f * d[3]);
}

// `act` with a number of channels that the compiler knows, if it is a usual one: addresses are then constants.
template <class Act>
INLINE void with_known(long channels, Act act) {
    switch (channels) {
        case 16: return act(std::integral_constant<long, 16>());
        case 32: return act(std::integral_constant<long, 32>());
        case 64: return act(std::integral_constant<long, 64>());
        case 128: return act(std::integral_constant<long, 128>());
        default: return act(channels);
    }
}

// `act(tile, number among them, channels)` for `count` tiles from number `first` on.
template <class Act>
INLINE void each_tile(const Shape& s, long first, long count, long channels, Act act) {
    with_known(channels, [&](auto channels) {
        Tile tile(s, first);
        for (long t = 0; t < count; ++t, tile.next(s)) act(tile, t, channels);
    });
}

// Both dimensions of a transform of one tile's `side` x `side` pixels: to v[point][channel].
template <long side, long before, class Channels, class One>
INLINE void transform(const Shape& s, const Tile& t, const float* x, const float* nothing, float* v, Channels channels,
                      One one) {
    pixels<side, before>(s, t, x, channels, nothing, [=](auto at, auto channels) INLINE_LAMBDA {
        for (long c = 0; c < channels; c += LANES) {
            Vector half[6 * side], d[side], o[6];
#pragma GCC unroll 6
            for (int j = 0; j < side; ++j) {
#pragma GCC unroll 6
                for (int i = 0; i < side; ++i) d[i] = load(at(i, j) + c);
                one(d, half + j, side);
            }
#pragma GCC unroll 6
            for (int i = 0; i < 6; ++i) {
                one(half + side * i, o, 1);
#pragma GCC unroll 6
                for (int j = 0; j < 6; ++j) store(v + (6 * i + j) * channels + c, o[j]);
            }
        }
    });
}

// B^T d B of one tile.
template <class Channels>
void transform_input(const Shape& s, const Tile& t, const float* x, const float* nothing, float* v, Channels channels) {
    auto one = [](const Vector* d, Vector* o, int step) INLINE_LAMBDA { into(d, o, step); };
    transform<6, 1>(s, t, x, nothing, v, channels, one);
}

// One dimension of A^T m.
inline void out_of(const Vector* m, Vector* y, int step) {
    const Vector s = m[1] + m[2], d = m[1] - m[2], t = m[3] + m[4], e = m[3] - m[4];
    y[0] = m[0] + s + t;
    y[step] = d + 2.f * e;
    y[2 * step] = s + 4.f * t;
    y[3 * step] = d + 8.f * e + m[5];
}

// A^T m A of one tile, finished, to its place in y; of a tile that is cut off, `high` x `wide`.
template <bool WHOLE, class Channels>
INLINE void place_output(const float* m, const Finish f, long corner, long across, Channels channels, long high,
                         long wide) {
    Vector whole[VECTORS][16];  // of 16 channels: a line of the cache in each pixel
    for (long c = 0; c < channels; c += LANES) {
        Vector half[24], d[6], o[4];
#pragma GCC unroll 6
        for (int j = 0; j < 6; ++j) {
#pragma GCC unroll 6
            for (int i = 0; i < 6; ++i) d[i] = load(m + (6 * i + j) * channels + c);
            out_of(d, half + j, 6);
        }
        const Vector bias = bias_of(f, c);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            if (!WHOLE && i >= high) break;
            out_of(half + 6 * i, o, 1);
            for (int j = 0; j < 4; ++j) o[j] += bias;
            const long place = corner + i * across + c;
            if (WHOLE && f.past)
                for (int j = 0; j < 4; ++j) whole[c / LANES % VECTORS][4 * i + j] = o[j];
            else if (WHOLE)
                finish<4>(o, f, place, channels);
            else
                for (long j = 0; j < wide; ++j) finish(o[j], f, place + j * channels);
        }
        if (!WHOLE || !f.past || (c / LANES + 1) % VECTORS) continue;
        float* y = f.y + corner + c + LANES - PANEL;
        for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 4; ++j)
                for (int v = 0; v < VECTORS; ++v)
                    stream(y + i * across + j * channels + v * LANES, whole[v][4 * i + j]);
    }
}

template <class Channels>
void transform_output(const Shape& s, const Tile& t, const float* m, const Finish f, Channels channels) {
    const long high = std::min(4L, s.height - t.row), wide = std::min(4L, s.width - t.column);
    const long across = s.width * channels, corner = (t.image * s.height + t.row) * across + t.column * channels;
    if (high == 4 && wide == 4)
        place_output<true>(m, f, corner, across, channels, 4, 4);
    else
        place_output<false>(m, f, corner, across, static_cast<long>(channels), high, wide);
}

// One dimension of A g.
inline void back(const Vector* g, Vector* z, int step) {
    const Vector a = g[0] + g[2], b = g[1] + g[3], c = g[0] + 4.f * g[2], d = 2.f * g[1] + 8.f * g[3];
    z[0] = g[0];
    z[step] = a + b;
    z[2 * step] = a - b;
    z[3 * step] = c + d;
    z[4 * step] = c - d;
    z[5 * step] = g[3];
}

// A g A^T of the gradient of one tile's outputs.
template <class Channels>
void transform_gradient(const Shape& s, const Tile& t, const float* g, const float* nothing, float* z,
                        Channels channels) {
    auto one = [](const Vector* d, Vector* o, int step) INLINE_LAMBDA { back(d, o, step); };
    transform<4, 0>(s, t, g, nothing, z, channels, one);
}

}  // namespace

Parallel cce::parallel = nullptr;

void cce::convolve(const Shape& s, const float* x, const float* u, const Finish f, const Room& room) {
    const long from = POINTS * s.inputs, to = POINTS * s.outputs, most = tiles_at_once(s, room.bytes);
    float *v = room.v.get(), *m = room.m.get();
    for (long first = 0; first < s.tiles(); first += most) {
        const long count = std::min(most, s.tiles() - first);
        each_tile(s, first, count, s.inputs, [&](const Tile& tile, long t, auto channels) {
            transform_input(s, tile, x, room.nothing.get(), v + t * from, channels);
        });
        const Ahead next = rows_of(s, x, s.inputs, first + most, first + 2 * most);
        const Ahead results = rows_of(s, f.y, s.outputs, first, first + most);
        for (int p = 0; p < POINTS; ++p) {
            next.fetch(p);
            if (!f.past) results.fetch(p);
            for (long n = 0; n < s.outputs; n += PANEL) {
                const float* panel = u + (p * s.outputs + n) * s.inputs;
                for (long t = 0; t < count; t += ROWS)
                    block<ROWS, false>(v + t * from + p * s.inputs, from, 1, panel, PANEL, s.inputs,
                                       m + t * to + p * s.outputs + n, to);
            }
        }
        each_tile(s, first, count, s.outputs, [&](const Tile& tile, long t, auto channels) {
            transform_output(s, tile, m + t * to, f, channels);
        });
    }
}

long cce::gradient_bytes(const Shape& s) { return (s.inputs * s.outputs < 64 * 64 ? 192 : 768) << 10; }

void cce::gradient_sums(const Shape& s, const float* x, const float* g, float* sum, const Room& room) {
    const long size = s.inputs * s.outputs;
    const long from = stride_of(s.inputs), to = stride_of(s.outputs), most = tiles_at_once(s, room.bytes);
    float *v = room.v.get(), *z = room.m.get();
    for (long first = 0; first < s.tiles(); first += most) {
        const long count = std::min(most, s.tiles() - first);
        each_tile(s, first, count, s.inputs, [&](const Tile& tile, long t, auto channels) {
            transform_input(s, tile, x, room.nothing.get(), v + t * from, channels);
        });
        each_tile(s, first, count, s.outputs, [&](const Tile& tile, long t, auto channels) {
            transform_gradient(s, tile, g, room.nothing.get(), z + t * to, channels);
        });
        const Ahead next = rows_of(s, x, s.inputs, first + most, first + 2 * most);
        const Ahead gradients = rows_of(s, g, s.outputs, first + most, first + 2 * most);
        for (int p = 0; p < POINTS; ++p) {
            next.fetch(p), gradients.fetch(p);
            for (long n = 0; n < s.outputs; n += PANEL) {
                const float *a = v + p * s.inputs, *b = z + p * s.outputs + n;
                float* at = sum + p * size + n;
                add_products(a, s.inputs, from, b, to, count, at, s.outputs);
            }
        }
    }
}

WeightSums::WeightSums(const Shape& s, long parts) : inputs(s.inputs), outputs(s.outputs), parts(parts) {
    sums = reserve(parts * size());
}

void WeightSums::clear(long part) { std::memset(of(part), 0, size() * sizeof(float)); }

bool WeightSums::finish(float* dw, long threads) {
    return spread(inputs / PANEL, threads, [] { return 0; }, [&](int, long piece) {
        for (long i = piece * PANEL; i < (piece + 1) * PANEL; ++i)
            for (long n = 0; n < outputs; n += PANEL) finish(dw, i, n);
    });
}

void WeightSums::finish(float* dw, long i, long n) {
    float half[3][6][PANEL] = {};
    for (int p = 0; p < 6; ++p)
        for (int q = 0; q < 6; ++q) {
            float total[PANEL] = {};
            const float* sum = sums.get() + ((6 * p + q) * inputs + i) * outputs + n;
            for (long k = 0; k < parts; ++k)
                for (int o = 0; o < PANEL; ++o) total[o] += sum[k * size() + o];
            for (int r = 0; r < 3; ++r)
                for (int o = 0; o < PANEL; ++o) half[r][q][o] += G[p][r] * total[o];
        }
    for (int r = 0; r < 3; ++r)
        for (int c = 0; c < 3; ++c)
            for (int o = 0; o < PANEL; ++o) {
                float value = 0;
                for (int q = 0; q < 6; ++q) value += half[r][q][o] * G[q][c];
                dw[((n + o) * inputs + i) * 9 + 3 * r + c] = value;
            }
}

extern "C" {

// Run on these threads from now on: see common.h.
void cce_threads(Parallel parallel) { cce::parallel = parallel; }

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
    const long few = (images + 8 * threads - 1) / (8 * threads);
    const Shape most{few, height, width, inputs, outputs};
    const bool past = !add && !relu && streams(y, images * height * width * outputs);
    return !spread((images + few - 1) / few, threads, [&] { return Room({most}, CONVOLUTION_BYTES); },
                   [&](const Room& room, long piece) {
                       const long first = piece * few, to = first * height * width * outputs;
                       const Shape s{std::min(few, images - first), height, width, inputs, outputs};
                       const Finish f{y + to, bias, add ? add + to : nullptr, relu != 0, nullptr, nullptr, past};
                       convolve(s, x + first * height * width * inputs, u, f, room);
                       _mm_sfence();
                   });
} catch (...) {
    return 1;
}

// Gradient of the weights, (outputs, inputs, 3, 3), from the inputs x and the gradient g of the outputs; with
// `flipped`, weights made ready for it, also that of the inputs, gx: g is then fetched but once. Returns 0, or 1
// without memory.
int cce_winograd_gradients(const float* x, const float* g, const float* flipped, float* dw, float* gx, long images,
                           long height, long width, long inputs, long outputs, long threads) try {
    const long few = std::max(1L, (64 << 10) / (height * width * std::max(inputs, outputs)));
    const Shape most{std::min(few, images), height, width, inputs, outputs};
    const Shape back{most.images, height, width, outputs, inputs};
    const bool past = streams(gx, images * height * width * inputs);
    struct Rooms {
        Room sums, back;
    };
    auto rooms = [&] { return Rooms{Room({most}, gradient_bytes(most)), Room({back}, CONVOLUTION_BYTES)}; };
    WeightSums weights(most, gradient_parts(most, images, threads));
    auto work = [&](const Rooms& room, long part, long start, long count) {
        weights.clear(part);
        for (long first = start; first < start + count; first += few) {
            const Shape s{std::min(few, start + count - first), height, width, inputs, outputs};
            const float *from = x + first * height * width * inputs, *to = g + first * height * width * outputs;
            if (flipped) {
                Finish f{gx + first * height * width * inputs};
                f.past = past;
                convolve({s.images, height, width, outputs, inputs}, to, flipped, f, room.back);
            }
            gradient_sums(s, from, to, weights.of(part), room.sums);
        }
        _mm_sfence();
    };
    return !(share(images, weights.parts, threads, rooms, work) && weights.finish(dw, threads));
} catch (...) {
    return 1;
}
}
