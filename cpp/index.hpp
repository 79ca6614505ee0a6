// id -> slot, for as many ids as training has seen: open addressing in buckets of one cache line, cut into shards that
// grow one at a time and at different moments, so that no step waits for the whole. A shard is never pruned in place:
// growing it and dropping ids from it are one operation, `rebuild`.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <sys/mman.h>
#include <utility>

#include "hash.hpp"

namespace rankwell {

class Index {
   public:
    static constexpr int num_shards = 1024;
    static constexpr uint64_t no_key = ~uint64_t(0);

    Index() {
        for (int s = 0; s < num_shards; ++s) shards_[size_t(s)].allocate(2);
    }

    static uint64_t hash(uint64_t id) { return mix64(id + golden); }
    static int shard_of(uint64_t hash) { return int(hash >> 54); }

    void prefetch(uint64_t hash) const {
        const Shard& shard = shards_[size_t(shard_of(hash))];
        __builtin_prefetch(shard.buckets + shard.home(hash));
    }

    // Where the slot of an id stands, or null.
    uint32_t* find(uint64_t id, uint64_t hash) const {
        const Shard& shard = shards_[size_t(shard_of(hash))];
        for (uint32_t b = shard.home(hash);; b = b + 1 == shard.num_buckets ? 0 : b + 1) {
            Bucket& bucket = shard.buckets[b];
            for (int i = 0; i < ways; ++i) {
                if (bucket.keys[i] == id) return &bucket.slots[i];
                if (bucket.keys[i] == no_key) return nullptr;
            }
        }
    }

    // Whether the shard must be rebuilt before another id goes into it.
    bool is_full(int s) const {
        const Shard& shard = shards_[size_t(s)];
        return shard.count >= shard.num_buckets * ways * 4 / 5;
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
        Shard fresh;
        fresh.allocate(size);  // first: if memory ends here, nothing has happened
        each(s, [&](uint64_t id, uint32_t& slot) {
            if (keep(id, slot)) fresh.put(id, hash(id), slot);
        });
        std::swap(shard.buckets, fresh.buckets);
        std::swap(shard.num_buckets, fresh.num_buckets);
        shard.count = fresh.count;
    }

    template <class Visit> void each(int s, Visit visit) const {
        const Shard& shard = shards_[size_t(s)];
        for (uint32_t b = 0; b < shard.num_buckets; ++b)
            for (int i = 0; i < ways && shard.buckets[b].keys[i] != no_key; ++i)
                visit(shard.buckets[b].keys[i], shard.buckets[b].slots[i]);
    }

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

        Shard() = default;
        Shard(const Shard&) = delete;
        Shard& operator=(const Shard&) = delete;
        ~Shard() { release(); }

        uint32_t home(uint64_t hash) const { return uint32_t((hash & 0xFFFFFFFF) * num_buckets >> 32); }
        size_t bytes() const { return size_t(num_buckets) * sizeof(Bucket); }
        bool is_mapped() const { return bytes() >= size_t(128) << 10; }  // given back to the system at once when freed

        void allocate(uint32_t size) {
            num_buckets = size;
            void* at = is_mapped() ? mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                                   : std::aligned_alloc(64, bytes());
            if (at == nullptr || at == MAP_FAILED) throw std::bad_alloc();
            buckets = static_cast<Bucket*>(at);
            for (uint32_t b = 0; b < num_buckets; ++b) std::fill_n(buckets[b].keys, ways, no_key);
        }
        void release() {
            if (buckets == nullptr) return;
            if (is_mapped()) munmap(buckets, bytes()); else std::free(buckets);
            buckets = nullptr;
        }
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

    Shard shards_[num_shards];
};

}  // namespace rankwell
