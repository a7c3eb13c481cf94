// Batch norm's arithmetic on vectors of channels, for those that go over the numbers in their own ways.

#pragma once

#include <cmath>

#include "common.h"

namespace cce {

constexpr long CHUNK = 4096;  // numbers that are summed in float before double takes over

inline long rows_of_chunk(long channels) { return std::max(1L, CHUNK / channels); }

// `act(part, first pixel, pixels)` for pieces of about CHUNK numbers; backwards, a second pass begins with what the
// first has left in the cache.
template <class Act>
void in_chunks(long pixels, long channels, long threads, bool backwards, Act act) {
    const long size = rows_of_chunk(channels), chunks = (pixels + size - 1) / size;
    share(chunks, parts_of(chunks, threads), threads, [] { return 0; }, [&](int, long part, long first, long count) {
        for (long i = 0; i < count; ++i) {
            const long c = (first + (backwards ? count - 1 - i : i)) * size;
            act(part, c, std::min(size, pixels - c));
        }
    });
}

// `act(place, channel)` for every vector of these pixels.
template <class Act>
INLINE void each_vector(long first, long rows, long channels, Act act) {
    for (long p = first * channels; p < (first + rows) * channels; p += channels)
        for (long c = 0; c < channels; c += LANES) act(p + c, c);
}

struct Two {
    Vector one, two;
};

// Sums over pixels of two numbers of each, [2][channels], where `act(place, channel)` gives them.
struct Sums {
    long channels;
    std::vector<double> total;
    explicit Sums(long channels) : channels(channels), total(2 * channels, 0.0) {}
    double one(long c) const { return total[c]; }
    double two(long c) const { return total[channels + c]; }
    template <class Act>
    INLINE void add(long first, long rows, Act act) {
        for (long c = 0; c < channels; c += LANES) {
            Vector a{}, b{};
            for (long r = 0; r < rows; ++r) {
                const Two found = act((first + r) * channels + c, c);
                a += found.one, b += found.two;
            }
            for (int i = 0; i < LANES; ++i) total[c + i] += a[i], total[channels + c + i] += b[i];
        }
    }
};

inline Sums together(const std::vector<Sums>& parts) {
    Sums all(parts.front().channels);
    for (const Sums& part : parts)
        for (std::size_t i = 0; i < all.total.size(); ++i) all.total[i] += part.total[i];
    return all;
}

// The same over all pixels, by so many threads.
template <class Act>
Sums sums_over(long pixels, long channels, long threads, Act act) {
    const long chunks = (pixels + rows_of_chunk(channels) - 1) / rows_of_chunk(channels);
    std::vector<Sums> parts(parts_of(chunks, threads), Sums(channels));
    in_chunks(pixels, channels, threads, false,
              [&](long part, long first, long rows) { parts[part].add(first, rows, act); });
    return together(parts);
}

// What is summed for the statistics: distances from a number near the mean, so that little is lost.
INLINE Two spread_of(Vector y, Vector near) {
    const Vector away = y - near;
    return {away, away * away};
}

// Mean and biased variance of each channel from these sums.
inline void statistics(const Sums& sums, const float* near, long pixels, float* mean, float* variance) {
    for (long c = 0; c < sums.channels; ++c) {
        const double away = sums.one(c) / pixels;
        mean[c] = static_cast<float>(near[c] + away);
        variance[c] = static_cast<float>(std::max(0.0, sums.two(c) / pixels - away * away));
    }
}

// (y - mean) / sqrt(variance + eps) weight + bias.
struct Normal {
    const float *mean, *bias;
    std::vector<float> scale;
    Normal(const float* weight, const float* bias, const float* mean, const float* variance, long channels, double eps)
        : mean(mean), bias(bias), scale(channels) {
        for (long c = 0; c < channels; ++c) scale[c] = static_cast<float>(weight[c] / std::sqrt(variance[c] + eps));
    }
    auto function() const {
        return [mean = mean, by = scale.data(), bias = bias](Vector y, long c) INLINE_LAMBDA {
            return (y - load(mean + c)) * load(by + c) + load(bias + c);
        };
    }
};

// What is summed for its gradient.
INLINE Two product_of(Vector g, Vector y, Vector mean) { return {g, g * (y - mean)}; }

// The gradient of y from those of `Normal`'s outputs and the sums over them; of weight and bias, to gw and gb.
struct Slope {
    const float* mean;
    std::vector<float> scale, slope, shift;
    Slope(const Sums& sums, const float* weight, const float* mean, const float* variance, float* gw, float* gb,
          long pixels, double eps)
        : mean(mean), scale(sums.channels), slope(sums.channels), shift(sums.channels) {
        for (long c = 0; c < sums.channels; ++c) {
            const double invstd = 1 / std::sqrt(variance[c] + eps), by = weight[c] * invstd;
            gw[c] = static_cast<float>(sums.two(c) * invstd), gb[c] = static_cast<float>(sums.one(c));
            scale[c] = static_cast<float>(by);
            slope[c] = static_cast<float>(-by * invstd * invstd * sums.two(c) / pixels);
            shift[c] = static_cast<float>(-by * sums.one(c) / pixels);
        }
    }
    auto function() const {
        return [mean = mean, by = scale.data(), per = slope.data(), plus = shift.data()](Vector g, Vector y, long c)
                   INLINE_LAMBDA { return g * load(by + c) + load(plus + c) + (y - load(mean + c)) * load(per + c); };
    }
};

INLINE Vector clipped(Vector value) { return value < 0.f ? Vector{} : value; }  // NaN stays

}  // namespace cce
