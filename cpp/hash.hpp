// Counters to random numbers: what is drawn depends on a key alone, never on when or by which thread it is drawn.
// mix64 and uniform_row say the same as src/rankwell/tables/hashing.py.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace rankwell {

inline constexpr uint64_t golden = 0x9E3779B97F4A7C15ull;

// SplitMix64's finaliser (Steele, Lea & Flood 2014).
inline uint64_t mix64(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

// Uniform in [-scale, scale), by (seed, id, column).
inline void uniform_row(float* row, int width, uint64_t seed, uint64_t id, double scale) {
    uint64_t key = mix64(mix64(seed + golden) ^ id);
    for (int w = 0; w < width; ++w) {
        key += golden;
        const double unit = double(mix64(key) >> 11) * 0x1.0p-53;
        row[w] = float((2.0 * unit - 1.0) * scale);
    }
}

using bfloat16 = uint16_t;

inline void to_float(const bfloat16* from, float* to, int width) {
    for (int w = 0; w < width; ++w) to[w] = std::bit_cast<float>(uint32_t(from[w]) << 16);
}

// Stochastic rounding: up with the probability of the part cut off, so the mean is exact. Drawn by (key, column).
inline void to_bfloat16(const float* from, bfloat16* to, int width, uint64_t key) {
    for (int begin = 0; begin < width; begin += 4) {
        uint64_t draw = mix64(key + golden * uint64_t(begin / 4 + 1));
        for (int w = begin; w < width && w < begin + 4; ++w, draw >>= 16) {
            const uint32_t bits = std::bit_cast<uint32_t>(from[w]);
            const bool finite = (bits & 0x7F800000u) != 0x7F800000u;
            to[w] = bfloat16((finite ? bits + uint32_t(draw & 0xFFFF) : bits) >> 16);
        }
    }
}

}  // namespace rankwell
