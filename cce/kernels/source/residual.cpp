// A residual network of cce/models.py, batch norm folded in: its logits, and from their gradient that of the pixels.
//
// A few images at a time pass the first two stages, so that what these compute stays in the cache; more together pass
// the last, whose many weights are then fetched less often. Between the two calls only the signs of the activations are
// kept, a bit each. Images are (N, H, W, C); height and width multiples of four.
// What comes out of an image does not depend on the others, nor on the threads.

#include "common.h"

using namespace cce;

namespace {

constexpr long FEW = 6;  // images: then their tiles fill whole blocks of rows in all three stages
constexpr long WIDTH = 16, STAGES = 3, LAST = WIDTH << (STAGES - 1);
constexpr int BLOCK_PARTS = 6;  // first convolution and its bias, second and its, shortcut and its

// The weights lie in `parts`: the stem's and its bias, BLOCK_PARTS for each block, the head's and its bias. For the
// gradient they are those of the transposed convolutions, and biases are not looked at.
struct Network {
    const float* const* parts;
    long channels, height, width, classes, blocks;  // blocks of a stage

    const float* const* block(long index) const { return parts + 2 + BLOCK_PARTS * index; }
    const float* const* head() const { return block(STAGES * blocks); }
    Shape stage(long index, long images) const {
        return {images, height >> index, width >> index, WIDTH << index, WIDTH << index};
    }
    long marks() const {  // bytes of an image's signs
        long total = stage(0, 1).numbers() / 8;
        for (long k = 0; k < STAGES; ++k) total += 2 * blocks * stage(k, 1).numbers() / 8;
        return total;
    }
};

// What one thread needs for groups of up to `group` images.
struct Work {
    Buffer a, b, c, padded, deep_a, deep_b;
    Room room, deep_room;
    Work(const Network& n, long group)
        : room({n.stage(0, FEW), n.stage(1, FEW)}, 128 << 10), deep_room({n.stage(2, group)}, 448 << 10) {
        const long size = FEW * n.height * n.width * WIDTH;
        a = reserve(size), b = reserve(size), c = reserve(size);
        padded = reserve(FEW * (n.height + 2) * (n.width + 2) * std::max(WIDTH, n.channels));
        const Shape s = n.stage(2, group);
        deep_a = reserve(s.numbers()), deep_b = reserve(s.numbers());
    }
};

// Where the signs of one activation after the other lie: of all images of a group side by side, here from `first` on.
struct Signs {
    std::uint8_t* base;  // null where nobody asks for them
    long images, first, passed;
    std::uint8_t* of(const Shape& one) const {
        return base ? base + images * passed + first * one.numbers() / 8 : nullptr;
    }
    std::uint8_t* next(const Shape& one) {
        std::uint8_t* here = of(one);
        passed += one.numbers() / 8;
        return here;
    }
    std::uint8_t* previous(const Shape& one) {
        passed -= one.numbers() / 8;
        return of(one);
    }
};

// Images with a border of zeros; `made` is done to every number.
template <class Made>
INLINE void pad(const float* x, long images, long height, long width, long channels, float* to, Made made) {
    const long row = width * channels, side = channels * sizeof(float), whole = row + 2 * channels;
    for (long n = 0; n < images; ++n) {
        std::memset(to, 0, whole * sizeof(float)), to += whole;
        for (long i = 0; i < height; ++i, x += row, to += whole) {
            std::memset(to, 0, side);
            for (long k = 0; k < row; ++k) to[channels + k] = made(x[k]);
            std::memset(to + channels + row, 0, side);
        }
        std::memset(to, 0, whole * sizeof(float)), to += whole;
    }
}

void pad(const float* x, const Shape& s, long channels, float* to) {
    pad(x, s.images, s.height, s.width, channels, to, [](float value) INLINE_LAMBDA { return value; });
}

// A run of numbers beneath every pixel of a row, those of the next pixel `across` further on.
struct Run {
    const float* at;
    long depth;
};

// Products of R pixels' runs with V vectors of weights, [run][depth][V]; `done(pixel, v, sum)` takes them.
template <int R, int V, class Done>
INLINE void some(const Run* runs, int count, long across, long pixel, const float* w, Done done) {
    Vector sum[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[r][v] = Vector{};
    for (int run = 0; run < count; ++run) {
        accumulate(sum, runs[run].at + pixel * across, across, 1, w, V * LANES, runs[run].depth);
        w += V * LANES * runs[run].depth;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) done(pixel + r, v, sum[r][v]);
}

template <int V, class Done>
INLINE void along_row(const Run* runs, int count, long across, long pixels, const float* w, Done done) {
    constexpr int MOST = (LANES == 16 ? 16 : 12) / V, SOME = 8 / V;  // few sums at a time would wait for one another
    for (long pixel = 0, left = pixels; left > 0; left = pixels - pixel) {
        if (left >= MOST + SOME || left == MOST)
            some<MOST, V>(runs, count, across, pixel, w, done), pixel += MOST;
        else if (left >= SOME)
            some<SOME, V>(runs, count, across, pixel, w, done), pixel += SOME;
        else if (left >= 2)
            some<2, V>(runs, count, across, pixel, w, done), pixel += 2;
        else
            some<1, V>(runs, count, across, pixel, w, done), pixel += 1;
    }
}

// A convolution of padded images, side 3 or 1, to outputs of shape `s`; weights [panel][row of the window][...][PANEL].
void direct(const float* padded, const Shape& s, long side, long stride, const float* w, const Finish f) {
    const long whole = (s.width * stride + 2) * s.inputs, high = s.height * stride + 2, first = side == 1;
    const long depth = side * s.inputs;
    for (long n = 0; n < s.images; ++n)
        for (long c = 0; c < s.outputs; c += PANEL)
            for (long i = 0; i < s.height; ++i) {
                Run runs[3];
                for (long k = 0; k < side; ++k)
                    runs[k] = {padded + (n * high + i * stride + first + k) * whole + first * s.inputs, depth};
                const long row = (n * s.height + i) * s.width, outputs = s.outputs;
                along_row<VECTORS>(runs, side, stride * s.inputs, s.width, w + side * depth * c,
                                   [=](long j, int v, Vector sum) INLINE_LAMBDA {
                                       const long channel = c + v * LANES;
                                       finish(sum + bias_of(f, channel), f, (row + j) * outputs + channel);
                                   });
            }
}

// The transposed convolutions of a block that halves the image: 3x3 of stride 2 from padded `g`, 1x1 of stride 2 from
// `shortcut`, which may be null; `s` is the shape of the gradients given, what comes out has twice its height and width
// and `channels`. The pixels of even and odd rows and columns come from 1, 2, 2 and 4 of the nine weights.
void direct_back(const float* g, const float* shortcut, const Shape& s, long channels, const float* w, const Finish f) {
    const long whole = (s.width + 2) * s.inputs;
    for (long odd_row = 0; odd_row < 2; ++odd_row)
        for (long odd_column = 0; odd_column < 2; ++odd_column) {
            const bool both = shortcut && !odd_row && !odd_column;
            const long depth = (1 + odd_column) * s.inputs;
            const long total = (1 + odd_row) * depth + both * s.inputs;
            for (long c = 0; c < channels; c += PANEL, w += total * PANEL)
                for (long n = 0; n < s.images; ++n)
                    for (long i = 0; i < s.height; ++i) {
                        const float* corner = g + ((n * (s.height + 2) + i + 1) * whole) + s.inputs;
                        Run runs[2] = {{corner, depth}, {corner + whole, depth}};
                        if (both) runs[1] = {shortcut + (n * s.height + i) * s.width * s.inputs, s.inputs};
                        const long first = ((n * s.height + i) * 2 + odd_row) * 2 * s.width + odd_column;
                        along_row<VECTORS>(runs, 1 + (odd_row || both), s.inputs, s.width, w,
                                           [=](long j, int v, Vector sum) INLINE_LAMBDA {
                                               finish(sum, f, (first + 2 * j) * channels + c + v * LANES);
                                           });
                    }
        }
}

// Stem and first two stages of a few images, and the halving convolutions of the third, to `first` and `shortcut`.
void shallow(const Network& net, const float* x, long images, Signs& signs, const Work& work, float* first,
             float* shortcut) {
    float *a = work.a.get(), *b = work.b.get(), *padded = work.padded.get();
    Shape s = net.stage(0, images);
    auto relu = [&](float* y, const float* bias, const float* add = nullptr) {
        return Finish{y, bias, add, true, signs.next({1, s.height, s.width, s.inputs, s.outputs}), nullptr};
    };
    pad(x, images, s.height, s.width, net.channels, padded,
        [](float value) INLINE_LAMBDA { return (value - .5f) * 4.f; });
    direct(padded, {images, s.height, s.width, net.channels, WIDTH}, 3, 1, net.parts[0], relu(a, net.parts[1]));
    for (long index = 0; index <= 2 * net.blocks; ++index) {
        const float* const* p = net.block(index);
        if (index % net.blocks || !index) {
            convolve(s, a, p[0], relu(b, p[1]), work.room);
            convolve(s, b, p[2], relu(a, p[3], a), work.room);
            continue;
        }
        const bool last = index == 2 * net.blocks;
        pad(a, s, s.inputs, padded);
        s = net.stage(index / net.blocks, images);
        const Shape half{s.images, s.height, s.width, s.inputs / 2, s.outputs};
        direct(padded, half, 3, 2, p[0], relu(last ? first : b, p[1]));
        direct(padded, half, 1, 2, p[4], {last ? shortcut : a, p[5]});
        if (!last) convolve(s, b, p[2], relu(a, p[3], a), work.room);
    }
}

// Logits of a group of images; signs of the activations to `marks`, which may be null.
void logits_of(const Network& net, const float* x, long images, float* logits, std::uint8_t* marks, const Work& work) {
    float *a = work.deep_a.get(), *b = work.deep_b.get();
    const Shape s = net.stage(2, images), one = net.stage(2, 1);
    Signs signs{marks, images, 0, 0};
    for (long first = 0; first < images; first += FEW) {
        signs = {marks, images, first, 0};
        shallow(net, x + first * net.height * net.width * net.channels, std::min(FEW, images - first), signs, work,
                b + first * one.numbers(), a + first * one.numbers());
    }
    signs.first = 0;
    auto relu = [&](float* y, const float* bias, const float* add = nullptr) {
        return Finish{y, bias, add, true, signs.next(one), nullptr};
    };
    for (long index = 2 * net.blocks; index < STAGES * net.blocks; ++index) {
        const float* const* p = net.block(index);
        if (index > 2 * net.blocks) convolve(s, a, p[0], relu(b, p[1]), work.deep_room);
        convolve(s, b, p[2], relu(a, p[3], a), work.deep_room);
    }
    const long pixels = s.height * s.width;
    for (long n = 0; n < images; ++n) {
        float mean[LAST] = {};
        for (long k = 0; k < pixels; ++k)
            for (long i = 0; i < LAST; ++i) mean[i] += a[(n * pixels + k) * LAST + i];
        for (long j = 0; j < net.classes; ++j) {
            float sum = 0;
            for (long i = 0; i < LAST; ++i) sum += mean[i] * net.head()[0][j * LAST + i];
            logits[n * net.classes + j] = sum / pixels + net.head()[1][j];
        }
    }
}

// From the gradients of the third stage's halving convolutions, of a few images, those of the pixels.
void shallow_back(const Network& net, const float* first, const float* shortcut, long images, float* gx, Signs signs,
                  const Work& work) {
    float *a = work.a.get(), *b = work.b.get(), *c = work.c.get(), *padded = work.padded.get();
    long at = 2;
    Shape s = net.stage(at, images);
    auto kept = [&](float* y, const float* add = nullptr) {  // where the activation before was above zero
        return Finish{y, nullptr, add, false, nullptr, signs.previous({1, s.height, s.width, s.inputs, s.outputs})};
    };
    for (long index = 2 * net.blocks; index >= 0; --index) {
        const float* const* p = net.block(index);
        const bool deep = index == 2 * net.blocks;
        if (!deep) convolve(s, a, p[2], kept(b), work.room);
        if (index % net.blocks || !index) {
            convolve(s, b, p[0], kept(a, a), work.room);
            continue;
        }
        const Shape given = s;
        pad(deep ? first : b, given, given.inputs, padded);
        s = net.stage(--at, images);
        direct_back(padded, deep ? shortcut : a, given, s.outputs, p[0], kept(c));
        std::swap(a, c);
    }
    pad(a, s, WIDTH, padded);
    const long whole = (s.width + 2) * WIDTH;
    for (long row = 0; row < images * s.height; ++row) {
        const float* from = padded + (row + 2 * (row / s.height)) * whole;
        const Run runs[3] = {{from, 3 * WIDTH}, {from + whole, 3 * WIDTH}, {from + 2 * whole, 3 * WIDTH}};
        along_row<1>(runs, 3, WIDTH, s.width, net.parts[0], [&](long j, int, Vector sum) INLINE_LAMBDA {
            for (long k = 0; k < net.channels; ++k) gx[(row * s.width + j) * net.channels + k] = 4.f * sum[k];
        });
    }
}

// Gradient of the pixels of a group of images, from that of their logits.
void pixels_of(const Network& net, const float* g, long images, float* gx, const std::uint8_t* marks,
               const Work& work) {
    float *a = work.deep_a.get(), *b = work.deep_b.get();
    const Shape s = net.stage(2, images), one = net.stage(2, 1);
    Signs signs{const_cast<std::uint8_t*>(marks), images, 0, net.marks()};
    auto kept = [&](float* y, const float* add = nullptr) {  // where the activation before was above zero
        return Finish{y, nullptr, add, false, nullptr, signs.previous(one)};
    };
    const long pixels = s.height * s.width;
    const Finish last = kept(a);
    for (long n = 0; n < images; ++n) {
        float mean[LAST] = {};
        for (long j = 0; j < net.classes; ++j)
            for (long i = 0; i < LAST; ++i) mean[i] += g[n * net.classes + j] * net.head()[0][j * LAST + i];
        for (long i = 0; i < LAST; ++i) mean[i] /= pixels;
        for (long k = 0; k < pixels; ++k)
            for (long i = 0; i < LAST; i += LANES) finish(load(mean + i), last, (n * pixels + k) * LAST + i);
    }
    for (long index = STAGES * net.blocks - 1; index >= 2 * net.blocks; --index) {
        const float* const* p = net.block(index);
        convolve(s, a, p[2], kept(b), work.deep_room);
        if (index > 2 * net.blocks) convolve(s, b, p[0], kept(a, a), work.deep_room);
    }
    for (long first = 0; first < images; first += FEW) {
        signs.first = first;
        shallow_back(net, b + first * one.numbers(), a + first * one.numbers(), std::min(FEW, images - first),
                     gx + first * net.height * net.width * net.channels, signs, work);
    }
}

// The first image of every group: of up to `group` images, and smaller towards the end, so that no thread is long alone.
std::vector<long> groups_of(long images, long group, long threads) {
    const bool many = threads > 1 && images > 2 * group;
    std::vector<long> starts;
    for (long first = 0; first < images;) {
        starts.push_back(first);
        const long fair = (images - first) / (2 * threads) / FEW * FEW;
        first += many ? std::min(group, std::max(2 * FEW, fair)) : group;
    }
    return starts;
}

template <class Do>
int in_groups(const Network& net, long images, long group, long threads, Do act) {
    const std::vector<long> starts = groups_of(images, group, threads);
    const long count = starts.size();
    return !spread(count, threads, [&] { return Work(net, group); }, [&](const Work& work, long k) {
        act(starts[k], (k + 1 < count ? starts[k + 1] : images) - starts[k], work);
    });
}

}  // namespace

extern "C" {

// Numbers in a vector: the width to which the stem's channels are filled up for the gradient.
long cce_residual_lanes() { return LANES; }

// Bytes of the signs that the two functions below share, for one image.
long cce_residual_marks(long height, long width, long blocks) {
    return Network{nullptr, 0, height, width, 0, blocks}.marks();
}

// Logits (images, classes) of x, `group` images at a time; `marks`, images times the bytes above, or null. Returns 0,
// or 1 without memory.
int cce_residual_logits(const float* x, const float* const* parts, float* logits, std::uint8_t* marks, long images,
                        long channels, long height, long width, long classes, long blocks, long group,
                        long threads) try {
    const Network net{parts, channels, height, width, classes, blocks};
    return in_groups(net, images, group, threads, [&](long first, long count, const Work& work) {
        logits_of(net, x + first * height * width * channels, count, logits + first * classes,
                  marks ? marks + first * net.marks() : nullptr, work);
    });
} catch (...) {
    return 1;
}

// Gradient gx of x from the gradient g of the logits and the signs of the same images in the same groups.
int cce_residual_gradient(const float* g, const float* const* parts, float* gx, const std::uint8_t* marks, long images,
                          long channels, long height, long width, long classes, long blocks, long group,
                          long threads) try {
    const Network net{parts, channels, height, width, classes, blocks};
    return in_groups(net, images, group, threads, [&](long first, long count, const Work& work) {
        pixels_of(net, g + first * classes, count, gx + first * height * width * channels, marks + first * net.marks(),
                  work);
    });
} catch (...) {
    return 1;
}
}
