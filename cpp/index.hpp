// id -> slot, for as many ids as training has seen: open addressing in buckets of one cache line, cut into shards that
// grow one at a time and at different moments, so that no step waits for the whole. A shard is never pruned in place:
// growing it and dropping ids from it are one operation, `rebuild`.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>

#include "arena.hpp"
#include "hash.hpp"

namespace rankwell {

class Index {
   public:
    static constexpr int num_shards = 1024;
    static constexpr uint64_t no_key = ~uint64_t(0);

    Index() {
        for (Shard& shard : shards_) shard = empty(2);
    }

    static uint64_t hash(uint64_t id) { return mix64(id + golden); }
    static int shard_of(uint64_t hash) { return int(hash >> 54); }

    // Inlined always: a compiler that sees a call without an effect but a prefetch leaves the call out.
    [[gnu::always_inline]] void prefetch(uint64_t hash) const {
        const Shard& shard = shards_[size_t(shard_of(hash))];
        __builtin_prefetch(shard.buckets + shard.home(hash));
    }

    // Where the slot of an id stands, or null. All keys of a bucket are compared: which of them it is cannot be foretold.
    uint32_t* find(uint64_t id, uint64_t hash) const {
        const Shard& shard = shards_[size_t(shard_of(hash))];
        for (uint32_t b = shard.home(hash);; b = b + 1 == shard.num_buckets ? 0 : b + 1) {
            Bucket& bucket = shard.buckets[b];
            unsigned hits = 0;
            for (int i = 0; i < ways; ++i) hits |= unsigned(bucket.keys[i] == id) << i;
            if (hits != 0) return &bucket.slots[std::countr_zero(hits)];
            if (bucket.keys[ways - 1] == no_key) return nullptr;
        }
    }

    // Whether the shard must be rebuilt before another id goes into it.
    bool is_full(int s) const {
        const Shard& shard = shards_[size_t(s)];
        return shard.count >= shard.num_buckets * ways * 7 / 10;
    }

    // Puts an id that is not there into a shard that is not full.
    void insert(uint64_t id, uint64_t hash, uint32_t slot) {
        shards_[size_t(shard_of(hash))].put(id, hash, slot);
    }

    // Lays a shard out anew with the entries that `keep(id, slot&)` keeps, and larger by about half if it is full.
    template <class Keep> void rebuild(int s, Keep keep) {
        Shard& shard = shards_[size_t(s)];
        uint32_t size = shard.num_buckets;
        if (is_full(s)) {  // 1.4 … 1.6 times, so that shards fall out of step
            const uint64_t draw = mix64(uint64_t(s) * golden + size) >> 32;
            size = size + size * 2 / 5 + uint32_t(uint64_t(size) * draw / 5 >> 32) + 1;
        }
        Shard fresh = empty(size);  // first: if memory ends here, nothing has happened
        each(s, [&](uint64_t id, uint32_t& slot) {
            if (keep(id, slot)) fresh.put(id, hash(id), slot);
        });
        arena_.give_back(reinterpret_cast<char*>(shard.buckets), shard.bytes());
        shard = fresh;
    }

    template <class Visit> void each(int s, Visit visit) const {
        const Shard& shard = shards_[size_t(s)];
        for (uint32_t b = 0; b < shard.num_buckets; ++b)
            for (int i = 0; i < ways && shard.buckets[b].keys[i] != no_key; ++i)
                visit(shard.buckets[b].keys[i], shard.buckets[b].slots[i]);
    }

    bool take_ahead() { return arena_.take_ahead(); }  // see Slab
    uint32_t count(int s) const { return shards_[size_t(s)].count; }
    size_t num_bytes() const {
        size_t bytes = sizeof(*this);
        for (const Shard& shard : shards_) bytes += size_t(shard.num_buckets) * sizeof(Bucket);
        return bytes;
    }

   private:
    static constexpr int ways = 5;
    struct alignas(64) Bucket {
        uint64_t keys[ways];
        uint32_t slots[ways];
    };
    static_assert(sizeof(Bucket) == 64);

    struct Shard {
        Bucket* buckets = nullptr;
        uint32_t num_buckets = 0, count = 0;

        uint32_t home(uint64_t hash) const { return uint32_t((hash & 0xFFFFFFFF) * num_buckets >> 32); }
        size_t bytes() const { return size_t(num_buckets) * sizeof(Bucket); }
        void put(uint64_t id, uint64_t hash, uint32_t slot) {
            for (uint32_t b = home(hash);; b = b + 1 == num_buckets ? 0 : b + 1) {
                for (int i = 0; i < ways; ++i) {
                    if (buckets[b].keys[i] == no_key) {
                        buckets[b].keys[i] = id;
                        buckets[b].slots[i] = slot;
                        ++count;
                        return;
                    }
                }
            }
        }
    };

    Shard empty(uint32_t size) {
        Shard shard{nullptr, size, 0};
        shard.buckets = reinterpret_cast<Bucket*>(arena_.take(shard.bytes()));
        for (uint32_t b = 0; b < size; ++b) std::fill_n(shard.buckets[b].keys, ways, no_key);
        return shard;
    }

    Arena arena_;
    Shard shards_[num_shards];
};

}  // namespace rankwell
