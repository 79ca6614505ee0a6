// Rows on their way to a file and from one.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "lending.hpp"

namespace rankwell {

// Where rows are put on their way, field by field.
struct Transit {
    int64_t* keys;
    uint32_t *last, *sightings;
    float* states;
    char* rows;

    // A row as it is after tick.step where `freshens`, else as it stands.
    template <class Rule>
    void out(const Store& store, size_t i, int64_t key, uint32_t slot, const Rule& rule, const Tick& tick,
             bool freshens) const {
        const size_t state = size_t(store.shape().state_width), row = row_bytes(store);
        float* const its_state = states + i * state;
        char* const its_row = rows + i * row;
        const Counts& counts = store.counts(slot);
        keys[i] = key;
        last[i] = freshens ? std::max(counts.last, tick.step) : counts.last;
        sightings[i] = counts.sightings;
        if (freshens && counts.last < tick.step) {
            float wide[Store::max_width];
            store.fresh_row(slot, rule, tick, wide, its_state);
            if (store.shape().is_bfloat16)
                to_bfloat16(wide, reinterpret_cast<bfloat16*>(its_row), store.shape().width, store.rounding(key, tick.step));
            else std::memcpy(its_row, wide, row);
        } else {
            std::copy_n(store.state(slot), state, its_state);
            std::memcpy(its_row, store.row(slot), row);
        }
    }
    void out_waiting(const Store& store, size_t i, int64_t key, uint32_t times) const {
        const size_t state = size_t(store.shape().state_width), row = row_bytes(store);
        keys[i] = key;
        last[i] = 0;
        sightings[i] = times;
        std::fill_n(states + i * state, state, 0.0f);
        std::memset(rows + i * row, 0, row);
    }

    // Puts n rows, as rows that changed or as those that a file has already.
    void in(Store& store, size_t n, bool changes) const {
        constexpr size_t ahead = 16;
        const size_t state = size_t(store.shape().state_width), row = row_bytes(store);
        for (size_t i = 0; i < n; ++i) {
            if (store.grows()) store.prefetch_entry(Index::hash(uint64_t(keys[std::min(i + ahead, n - 1)])));
            const uint32_t slot = store.slot_for(keys[i], sightings[i]);
            if (slot & pending) continue;
            if (store.in_file()) {
                store.keep_bound();
                store.about_to_touch(slot);
                store.touch();
            }
            Counts& its = store.counts(slot);
            if (!store.grows() && keys[i] >= 0 && its.sightings == 0 && sightings[i] > 0) ++store.account(0).num_seen;
            its = {0, last[i], std::min(sightings[i], most_sightings), changes};
            std::copy_n(states + i * state, state, store.state(slot));
            std::memcpy(store.row(slot), rows + i * row, row);
        }
    }

   private:
    static size_t row_bytes(const Store& store) {
        return size_t(store.shape().width) * (store.shape().is_bfloat16 ? 2 : 4);
    }
};

// A table's rows piece by piece in the order of their slots, so that a file is read from its beginning to its end; the
// ids that wait for a row come last. The index knows ids by their hashes: it is gone through once for a span of slots.
// Nothing may be lent, dropped or put in meanwhile.
class Scan {
   public:
    // `only_changed`: rows that changed since they were taken, and all ids that wait. `takes`: they count as taken.
    Scan(Store& store, bool only_changed, bool takes) : store_(store), only_changed_(only_changed), takes_(takes) {}

    // Writes out up to `room` rows, fewer only at the end; as they are after tick.step where a rule says how.
    template <class Rule>
    size_t next(const Transit& to, size_t room, const Rule& rule, const Tick& tick, bool freshens) {
        constexpr uint64_t block = 1024;
        const bool owes = freshens && rule.catches_up();
        size_t n = 0;
        for (; n < room && slot_ < store_.num_slots(); ++slot_) {
            const auto slot = uint32_t(slot_);
            if (store_.in_file()) {
                if (slot % block == 0) store_.keep_bound();
                store_.about_to_touch(slot);
                store_.touch();
            }
            const int64_t key = key_at(slot);
            if (key == no_row) continue;
            Counts& its = store_.counts(slot);
            if (only_changed_ && !its.changed) continue;
            if (takes_ && its.changed) its.changed = 0;
            to.out(store_, n++, key, slot, rule, tick, owes);
        }
        for (; n < room && store_.grows() && (shard_ < Index::num_shards || !waiting_.empty());) {
            if (waiting_.empty()) {
                store_.each_waiting(shard_++, [&](int64_t id, uint32_t times) { waiting_.emplace_back(id, times); });
            } else {
                to.out_waiting(store_, n++, waiting_.back().first, waiting_.back().second);
                waiting_.pop_back();
            }
        }
        if (store_.in_file()) store_.keep_bound();
        return n;
    }

   private:
    static constexpr int64_t no_row = std::numeric_limits<int64_t>::min();
    static constexpr uint64_t span = uint64_t(1) << 22;

    int64_t key_at(uint32_t slot) {
        if (slot == default_slot) return default_key;
        if (slot == missing_slot) return missing_id;
        if (!store_.grows()) return store_.counts(slot).sightings > 0 ? int64_t(slot) - num_own_rows : no_row;
        if (slot >= end_) look_up(slot);
        return keys_[slot - begin_];
    }

    void look_up(uint64_t begin) {
        begin_ = begin;
        end_ = std::min(begin + span, store_.num_slots());
        keys_.assign(end_ - begin_, no_row);
        for (int s = 0; s < Index::num_shards; ++s)
            store_.each_in_shard(s, [&](int64_t id, uint32_t slot) {
                if (slot >= begin_ && slot < end_) keys_[slot - begin_] = id;
            });
    }

    Store& store_;
    bool only_changed_, takes_;
    uint64_t slot_ = 0, begin_ = 0, end_ = 0;
    std::vector<int64_t> keys_;  // of the slots from begin_ to end_
    int shard_ = 0;
    std::vector<std::pair<int64_t, uint32_t>> waiting_;  // of the shard before
};

}  // namespace rankwell
