// Batch norm over images (N, H, W, C) in training, with the sum and the ReLU that follow it: two passes over the
// numbers forward and two backward, where PyTorch's separate ones take twice as many.

#include "norm.h"

using namespace cce;

extern "C" {

// out = (y - mean) invstd weight + bias + add, and ReLU of it with its signs to `marks`, where these are not null;
// `add` may be null. Gives the mean and the biased variance of each channel. Returns 0, or 1 without memory.
int cce_norm_forward(const float* y, const float* add, const float* weight, const float* bias, float* out,
                     std::uint8_t* marks, float* mean, float* variance, long pixels, long channels, double eps,
                     long threads) try {
    const Sums sums = sums_over(pixels, channels, threads, [=](long place, long c) INLINE_LAMBDA {
        return spread_of(load(y + place), load(y + c));
    });
    statistics(sums, y, pixels, mean, variance);
    const Normal norm(weight, bias, mean, variance, channels, eps);
    const auto normal = norm.function();
    const bool past = streams(out, pixels * channels);
    in_chunks(pixels, channels, threads, true, [=](long, long first, long rows) {
        each_vector(first, rows, channels, [=](long place, long c) INLINE_LAMBDA {
            Vector value = normal(load(y + place), c);
            if (add) value += load(add + place);
            if (marks) {
                mark(marks + place / 8, value);
                value = clipped(value);
            }
            put(out + place, value, past);
        });
        _mm_sfence();
    });
    return 0;
} catch (...) {
    return 1;
}

// Gradients gy, gw, gb and g_add from g, that of out; `marks` is null where there was no ReLU; g_add may be null.
int cce_norm_backward(const float* g, const float* y, const std::uint8_t* marks, const float* weight, const float* mean,
                      const float* variance, float* g_add, float* gy, float* gw, float* gb, long pixels, long channels,
                      double eps, long threads) try {
    auto given = [=](long place) INLINE_LAMBDA {
        const Vector value = load(g + place);
        return marks ? keep(marks + place / 8, value) : value;
    };
    const Sums sums = sums_over(pixels, channels, threads, [=](long place, long c) INLINE_LAMBDA {
        return product_of(given(place), load(y + place), load(mean + c));
    });
    const Slope slopes(sums, weight, mean, variance, gw, gb, pixels, eps);
    const auto slope = slopes.function();
    const bool past = streams(gy, pixels * channels) && (!g_add || streams(g_add, pixels * channels));
    in_chunks(pixels, channels, threads, true, [=](long, long first, long rows) {
        each_vector(first, rows, channels, [=](long place, long c) INLINE_LAMBDA {
            const Vector value = given(place), found = slope(value, load(y + place), c);
            put(gy + place, found, past);
            if (g_add) put(g_add + place, value, past);
        });
        _mm_sfence();
    });
    return 0;
} catch (...) {
    return 1;
}
}
