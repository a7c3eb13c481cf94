// A residual block in training, out = relu(norm(conv(relu(norm(conv(x))))) + x), with 3x3 convolutions of stride 1:
// batch norm is computed on what a convolution takes or gives while that is in the cache, so that little more than the
// convolutions' outputs goes out to memory. Images are (N, H, W, C), C a multiple of 16.

#include "norm.h"

using namespace cce;

namespace {

constexpr long PIECE = 32 << 10;  // numbers of a tensor that are in the cache together

// A piece of the batch: some images, from number `from` of a tensor on.
struct Piece {
    Shape shape;
    long from, pixels;
};

Piece piece_of(const Shape& all, long first, long few) {
    const long size = all.height * all.width * all.inputs, count = std::min(few, all.images - first);
    return {{count, all.height, all.width, all.inputs, all.outputs}, first * size, count * all.height * all.width};
}

long images_of_piece(const Shape& s) {
    return std::min(s.images, std::max(1L, PIECE / (s.height * s.width * s.inputs)));
}

// What a thread needs: room for tiles, and for pieces of three tensors.
struct Work {
    Room room;
    Buffer one, two, three;
    Work(const Shape& most, long bytes) : room({most}, bytes) {
        one = reserve(most.numbers()), two = reserve(most.numbers()), three = reserve(most.numbers());
    }
};

// y = conv of what `prepare(work, piece)` says is there, and its statistics.
template <class Prepare>
bool convolve_and_sum(const Shape& all, const float* u, float* y, const float* near, float* mean, float* variance,
                      long threads, Prepare prepare) {
    const long few = images_of_piece(all), pieces = (all.images + few - 1) / few, channels = all.outputs;
    const Shape most = piece_of(all, 0, few).shape;
    const bool past = streams(y, all.numbers());
    std::vector<Sums> sums(pieces, Sums(channels));
    const bool done = spread(pieces, threads, [&] { return Work(most, CONVOLUTION_BYTES); },
                             [&](const Work& work, long k) {
                                 const Piece piece = piece_of(all, k * few, few);
                                 float *found = work.two.get(), *to = y + piece.from;
                                 const float* from = prepare(work, piece);
                                 convolve(piece.shape, from, u, {found}, work.room);
                                 const long rows = rows_of_chunk(channels);
                                 for (long first = 0; first < piece.pixels; first += rows) {
                                     const long count = std::min(rows, piece.pixels - first);
                                     sums[k].add(first, count, [=](long place, long c) INLINE_LAMBDA {
                                         return spread_of(load(found + place), load(near + c));
                                     });
                                     each_vector(first, count, channels, [=](long place, long) INLINE_LAMBDA {
                                         put(to + place, load(found + place), past);
                                     });
                                 }
                                 _mm_sfence();
                             });
    statistics(together(sums), near, all.images * all.height * all.width, mean, variance);
    return done;
}

}  // namespace

extern "C" {

// y1 and y2, what the two convolutions give, `out` and its signs; `stats` (4, channels): the means and biased variances
// of y1 and y2. `parts`: of the first convolution its weights made ready, then weight, bias and running mean of its
// batch norm; the same of the second. Returns 0, or 1 without memory.
int cce_block_forward(const float* x, const float* const* parts, float* y1, float* y2, float* out, std::uint8_t* marks,
                      float* stats, long images, long height, long width, long channels, double eps1, double eps2,
                      long threads) try {
    const Shape all{images, height, width, channels, channels};
    const long pixels = images * height * width;
    float *mean1 = stats, *variance1 = mean1 + channels, *mean2 = variance1 + channels, *variance2 = mean2 + channels;
    bool done = convolve_and_sum(all, parts[0], y1, parts[3], mean1, variance1, threads,
                                 [=](const Work&, const Piece& piece) { return x + piece.from; });
    const Normal norm1(parts[1], parts[2], mean1, variance1, channels, eps1);
    const auto first_norm = norm1.function();
    auto between = [=](const Work& work, const Piece& piece) -> const float* {
        float* to = work.one.get();
        const float* from = y1 + piece.from;
        each_vector(0, piece.pixels, channels, [=](long place, long c) INLINE_LAMBDA {
            store(to + place, clipped(first_norm(load(from + place), c)));
        });
        return to;
    };
    done = done && convolve_and_sum(all, parts[4], y2, parts[7], mean2, variance2, threads, between);
    const Normal norm2(parts[5], parts[6], mean2, variance2, channels, eps2);
    const auto second_norm = norm2.function();
    const bool past = streams(out, all.numbers());
    in_chunks(pixels, channels, threads, true, [=](long, long first, long rows) {
        each_vector(first, rows, channels, [=](long place, long c) INLINE_LAMBDA {
            const Vector value = second_norm(load(y2 + place), c) + load(x + place);
            mark(marks + place / 8, value);
            put(out + place, clipped(value), past);
        });
        _mm_sfence();
    });
    return !done;
} catch (...) {
    return 1;
}

// From the gradient g of `out` those of x, of the convolutions' weights, and of the batch norms' weights and biases,
// `norms` (4, channels): first weight and bias, second weight and bias. `parts`: of the first convolution its weights
// made ready for the gradient of its input, weight and bias of its batch norm; the same of the second.
int cce_block_backward(const float* g, const float* x, const float* y1, const float* y2, const std::uint8_t* marks,
                       const float* stats, const float* const* parts, float* gx, float* dw1, float* dw2, float* norms,
                       long images, long height, long width, long channels, double eps1, double eps2,
                       long threads) try {
    const Shape all{images, height, width, channels, channels};
    const long pixels = images * height * width, few = images_of_piece(all), rows = rows_of_chunk(channels);
    const float *mean1 = stats, *variance1 = mean1 + channels, *mean2 = variance1 + channels,
                *variance2 = mean2 + channels;
    auto given = [=](long place) INLINE_LAMBDA { return keep(marks + place / 8, load(g + place)); };
    const Sums sums2 = sums_over(pixels, channels, threads, [=](long place, long c) INLINE_LAMBDA {
        return product_of(given(place), load(y2 + place), load(mean2 + c));
    });
    const Slope slopes2(sums2, parts[4], mean2, variance2, norms + 2 * channels, norms + 3 * channels, pixels, eps2);
    const Normal norm1(parts[1], parts[2], mean1, variance1, channels, eps1);
    const auto slope2 = slopes2.function();
    const auto normal1 = norm1.function();

    const long parts_count = gradient_parts(all, images, threads);
    const Shape most = piece_of(all, 0, few).shape;
    const bool past = streams(gx, all.numbers());
    struct Both {
        Work work;
        Room sums;
    };
    auto make = [&] { return Both{Work(most, CONVOLUTION_BYTES), Room({most}, gradient_bytes(most))}; };
    WeightSums weights(all, parts_count);
    auto in_pieces = [&](auto act) {
        return share(images, parts_count, threads, make, [&](const Both& own, long part, long start, long count) {
            weights.clear(part);
            for (long first = start; first < start + count; first += few)
                act(own, part, piece_of({start + count, height, width, channels, channels}, first, few));
            _mm_sfence();
        });
    };

    // To gx, for the time being, the gradient of what the first batch norm gives.
    std::vector<Sums> sums(parts_count, Sums(channels));
    bool done = in_pieces([&](const Both& own, long part, const Piece& piece) {
        float *one = own.work.one.get(), *two = own.work.two.get(), *three = own.work.three.get();
        const long from = piece.from;
        each_vector(0, piece.pixels, channels, [=](long place, long c) INLINE_LAMBDA {
            store(one + place, slope2(given(from + place), load(y2 + from + place), c));
            store(two + place, clipped(normal1(load(y1 + from + place), c)));
        });
        convolve(piece.shape, one, parts[3], {three}, own.work.room);
        gradient_sums(piece.shape, two, one, weights.of(part), own.sums);
        for (long first = 0; first < piece.pixels; first += rows) {
            const long some = std::min(rows, piece.pixels - first);
            each_vector(first, some, channels, [=](long place, long) INLINE_LAMBDA {
                const Vector value = load(two + place) > 0.f ? load(three + place) : Vector{};
                store(three + place, value);
                put(gx + from + place, value, past);
            });
            sums[part].add(first, some, [=](long place, long c) INLINE_LAMBDA {
                return product_of(load(three + place), load(y1 + from + place), load(mean1 + c));
            });
        }
    });
    done = done && weights.finish(dw2, threads);
    const Slope slopes1(together(sums), parts[1], mean1, variance1, norms, norms + channels, pixels, eps1);
    const auto slope1 = slopes1.function();
    done = done && in_pieces([&](const Both& own, long part, const Piece& piece) {
        float *one = own.work.one.get(), *three = own.work.three.get();
        const long from = piece.from;
        each_vector(0, piece.pixels, channels, [=](long place, long c) INLINE_LAMBDA {
            store(one + place, slope1(load(gx + from + place), load(y1 + from + place), c));
        });
        convolve(piece.shape, one, parts[0], {three}, own.work.room);
        gradient_sums(piece.shape, x + from, one, weights.of(part), own.sums);
        each_vector(0, piece.pixels, channels, [=](long place, long) INLINE_LAMBDA {
            put(gx + from + place, load(three + place) + given(from + place), past);
        });
    });
    return !(done && weights.finish(dw1, threads));
} catch (...) {
    return 1;
}
}
