// Batch norm over images (N, H, W, C) in training, with the sum and the ReLU that follow it: two passes over the
// numbers forward and two backward, where PyTorch's separate ones take twice as many.

#include <cmath>
#include <utility>

#include "common.h"

using namespace cce;

namespace {

constexpr long CHUNK = 4096;  // numbers that are summed in float before double takes over

// `act(thread, first pixel, pixels)` for pieces of about CHUNK numbers; backwards, a second pass begins with what the
// first has left in the cache.
template <class Act>
void in_chunks(long pixels, long channels, long threads, bool backwards, Act act) {
    const long size = std::max(1L, CHUNK / channels), chunks = (pixels + size - 1) / size;
    share({chunks, 0, 0, 0, 0}, threads, [&](long k, long first, const Shape& s) {
        for (long i = 0; i < s.images; ++i) {
            const long c = (first + (backwards ? s.images - 1 - i : i)) * size;
            act(k, c, std::min(size, pixels - c));
        }
    });
}

// Sums over all pixels of two numbers of each; `act(place, channel)` gives them as a pair of vectors.
template <class Act>
void two_sums(long pixels, long channels, long threads, double* one, double* two, Act act) {
    const long count = std::max(1L, threads);
    std::vector<double> sums(count * 2 * channels, 0.0);
    in_chunks(pixels, channels, threads, false, [&](long k, long first, long rows) {
        double* to = sums.data() + k * 2 * channels;
        for (long c = 0; c < channels; c += LANES) {
            Vector a{}, b{};
            for (long r = 0; r < rows; ++r) {
                const auto found = act((first + r) * channels + c, c);
                a += found.first, b += found.second;
            }
            for (int i = 0; i < LANES; ++i) to[c + i] += a[i], to[channels + c + i] += b[i];
        }
    });
    for (long c = 0; c < channels; ++c) {
        one[c] = two[c] = 0;
        for (long k = 0; k < count; ++k) {
            one[c] += sums[2 * k * channels + c];
            two[c] += sums[(2 * k + 1) * channels + c];
        }
    }
}

}  // namespace

extern "C" {

// out = (y - mean) invstd weight + bias + add, and ReLU of it with its signs to `marks`, where these are not null;
// `add` may be null. Gives the mean and the biased variance of each channel. Returns 0, or 1 without memory.
int cce_norm_forward(const float* y, const float* add, const float* weight, const float* bias, float* out,
                     std::uint8_t* marks, float* mean, float* variance, long pixels, long channels, double eps,
                     long threads) try {
    std::vector<double> sum(channels), square(channels);
    std::vector<float> scale(channels);
    two_sums(pixels, channels, threads, sum.data(), square.data(), [=](long place, long c) INLINE_LAMBDA {
        const Vector from_first = load(y + place) - load(y + c);  // from a number of the channel: little is lost
        return std::make_pair(from_first, from_first * from_first);
    });
    for (long c = 0; c < channels; ++c) {
        const double away = sum[c] / pixels, spread = std::max(0.0, square[c] / pixels - away * away);
        mean[c] = static_cast<float>(y[c] + away), variance[c] = static_cast<float>(spread);
        scale[c] = static_cast<float>(weight[c] / std::sqrt(spread + eps));
    }
    const float* by = scale.data();
    const bool past = streams(out, pixels * channels);
    in_chunks(pixels, channels, threads, true, [=](long, long first, long rows) {
        for (long p = first * channels; p < (first + rows) * channels; p += channels)
            for (long c = 0; c < channels; c += LANES) {
                Vector value = (load(y + p + c) - load(mean + c)) * load(by + c) + load(bias + c);
                if (add) value += load(add + p + c);
                if (marks) {
                    mark(marks + (p + c) / 8, value);
                    value = value < 0.f ? Vector{} : value;  // NaN stays
                }
                past ? stream(out + p + c, value) : store(out + p + c, value);
            }
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
    std::vector<double> sum(channels), product(channels);
    std::vector<float> scale(channels), slope(channels), shift(channels);
    auto given = [=](long place) INLINE_LAMBDA {
        const Vector value = load(g + place);
        return marks ? keep(marks + static_cast<std::size_t>(place) / 8, value) : value;
    };
    two_sums(pixels, channels, threads, sum.data(), product.data(), [=](long place, long c) INLINE_LAMBDA {
        const Vector value = given(place);
        return std::make_pair(value, value * (load(y + place) - load(mean + c)));
    });
    for (long c = 0; c < channels; ++c) {
        const double invstd = 1 / std::sqrt(variance[c] + eps), by = weight[c] * invstd;
        gw[c] = static_cast<float>(product[c] * invstd), gb[c] = static_cast<float>(sum[c]);
        scale[c] = static_cast<float>(by), slope[c] = static_cast<float>(-by * invstd * invstd * product[c] / pixels);
        shift[c] = static_cast<float>(-by * sum[c] / pixels);
    }
    const float *by = scale.data(), *per = slope.data(), *plus = shift.data();
    const bool past = streams(gy, pixels * channels) && (!g_add || streams(g_add, pixels * channels));
    in_chunks(pixels, channels, threads, true, [=](long, long first, long rows) {
        for (long p = first * channels; p < (first + rows) * channels; p += channels)
            for (long c = 0; c < channels; c += LANES) {
                const Vector value = given(p + c);
                const Vector found = value * load(by + c) + load(plus + c) +
                                     (load(y + p + c) - load(mean + c)) * load(per + c);
                past ? stream(gy + p + c, found) : store(gy + p + c, found);
                if (g_add) past ? stream(g_add + p + c, value) : store(g_add + p + c, value);
            }
        _mm_sfence();
    });
    return 0;
} catch (...) {
    return 1;
}
}
