// The memory traffic that a table step cannot do without, and nothing else: the limit that steps are held against.
//
// Which rows are distinct is known beforehand here, so there is no index, no hashing and no telling apart. Each entry's
// row is copied to the block that is lent, each entry's gradient is read, and each distinct row is read and written
// once, with its row-wise state. Threads own fields, and so rows: nothing is locked.

#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t ahead = 16;  // far enough for DRAM to answer, near enough to stay in L1

void lend(const float* rows, const uint32_t* slots, int64_t count, int64_t width, float* block) {
    for (int64_t i = 0; i < count; ++i) {
        if (i + ahead < count) __builtin_prefetch(rows + int64_t(slots[i + ahead]) * width);
        std::memcpy(block + i * width, rows + int64_t(slots[i]) * width, size_t(width) * sizeof(float));
    }
}

void take_back(const float* gradients, int64_t count, int64_t width, float* sum) {
    for (int64_t i = 0; i < count; ++i)
        for (int64_t w = 0; w < width; ++w) sum[w] += gradients[i * width + w];
}

void move(float* rows, float* states, const uint32_t* slots, int64_t count, int64_t width) {
    for (int64_t i = 0; i < count; ++i) {
        if (i + ahead < count) {
            __builtin_prefetch(rows + int64_t(slots[i + ahead]) * width, 1);
            __builtin_prefetch(states + slots[i + ahead], 1);
        }
        float* row = rows + int64_t(slots[i]) * width;
        for (int64_t w = 0; w < width; ++w) row[w] = row[w] * 0.999f + 1e-6f;
        states[slots[i]] += 1.0f;
    }
}

}  // namespace

// Part p of `parts`, one a thread, has entries [entry_bounds[p], entry_bounds[p + 1]) and the distinct slots likewise.
// A null block leaves out what is lent and what comes back: only rows and states are touched.
extern "C" void touch(float* rows, float* states, int64_t width, const uint32_t* entries, const int64_t* entry_bounds,
                      const uint32_t* distinct, const int64_t* distinct_bounds, int64_t parts, float* block,
                      const float* gradients, float* sums) {
#pragma omp parallel for num_threads(int(parts)) schedule(static, 1)
    for (int64_t p = 0; p < parts; ++p) {
        const int64_t first = entry_bounds[p], count = entry_bounds[p + 1] - first;
        if (block) {
            lend(rows, entries + first, count, width, block + first * width);
            take_back(gradients + first * width, count, width, sums + p * 64 * width);  // no cache line of another's
        }
        move(rows, states, distinct + distinct_bounds[p], distinct_bounds[p + 1] - distinct_bounds[p], width);
    }
}
