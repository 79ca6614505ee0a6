// The rows of one named table: where each id's row stands, how a row is born, lent, and dropped.
//
// A record is a row, its counts, and its optimizer state; packed side by side, or split into two slabs. Slots 0 and 1
// are the table's own: the default row, which ids without a row of their own read, and the missing row.
#pragma once

#include <atomic>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "any_rule.hpp"
#include "hash.hpp"
#include "index.hpp"
#include "slab.hpp"

namespace rankwell {

enum class Addressing { direct, hashed, growing };

struct Shape {
    Addressing addressing;
    uint64_t size;  // ids or rows; of a growing table the bound of its ids, 0 for none
    int width, state_width;
    bool is_bfloat16, is_packed;
    uint32_t admission;
    uint64_t seed, salt;  // of the rows' start; of the hash to rows
    double init_scale;
    std::string path;  // of the file, empty for memory
    uint64_t resident_bytes;
    uint32_t max_age_steps;  // 0 for no eviction by age
    uint64_t max_rows;       // 0 for no eviction by frequency
};

inline constexpr uint32_t default_slot = 0, missing_slot = 1, num_own_rows = 2;
inline constexpr int64_t missing_id = -1, default_key = -2;
inline constexpr uint32_t part_shift = 28, u_mask = (1u << part_shift) - 1;
inline constexpr int most_parts = 16;
inline constexpr uint32_t pending = 1u << 31;  // an id that waits for admission: its sightings stand for its slot
inline constexpr uint32_t most_sightings = (1u << 31) - 1;

// A sum in which rounding errors are kept: in whatever order a few million terms come, the outcome is the same double.
struct Sum {
    double high = 0, low = 0;
    void add(double x) {
        const double sum = high + x, added = sum - high;
        low += (high - (sum - added)) + (x - added);
        high = sum;
    }
};

// What is known of a row besides its numbers.
struct Counts {
    uint32_t u;               // its place among the rows lent, if it is lent
    uint32_t last;            // the step it is up to date through
    uint32_t sightings : 31;  // in training
    uint32_t changed : 1;     // anything of the row, since it was last taken to a file

    void sight() {
        if (sightings < most_sightings) ++sightings;
        changed = 1;
    }
};

// The rows that one thread has lent since the last step, in the order of their first use.
struct Account {
    size_t num_lent = 0;
    std::vector<uint32_t> slots;  // of the rows lent, and room for more
    std::vector<int64_t> keys;
    std::vector<float> grads;       // summed, of the rows lent
    std::vector<uint8_t> has_grad;  // of as many rows as were lent when gradients were summed
    std::vector<uint32_t> mine;     // the places of a column that are this thread's
    std::vector<uint32_t> spare;    // slots for rows to come
    std::vector<int64_t> removed;
    uint64_t num_seen = 0, num_evicted_by_age = 0, num_evicted_by_frequency = 0;
    Sum square;

    void clear(int part) {
        has_grad.clear();
        num_lent = 0;
        make_room(num_own_rows);
        if (part == 0) {
            lent(default_slot, default_key);
            lent(missing_slot, missing_id);
        }
    }
    void make_room(size_t more) {
        if (slots.size() > num_lent + more) return;
        slots.resize(num_lent + more + 1);
        keys.resize(num_lent + more + 1);
    }
    void lent(uint32_t slot, int64_t key) {
        slots[num_lent] = slot;
        keys[num_lent++] = key;
    }
    // The place of a row among those lent, given what its record says of it: the last one if it was not lent yet. About
    // every second row of a batch is new, at random, so nothing branches on it. There must be room.
    uint32_t place_of(uint32_t slot, int64_t key, uint32_t said) {
        const auto next = uint32_t(num_lent);
        const uint32_t at = said < next ? said : next;
        const bool is_new = bool(unsigned(said >= next) | unsigned(slots[at] != slot));
        slots[next] = slot;
        keys[next] = key;
        num_lent += is_new;
        return is_new ? next : at;
    }
};

class Store {
   public:
    explicit Store(const Shape& shape) : shape_(shape), accounts_(most_parts) {
        const size_t row = size_t(shape.width) * (shape.is_bfloat16 ? 2 : 4), padded = (row + 3) / 4 * 4;
        const size_t rest = sizeof(Counts) + size_t(shape.state_width) * 4;
        const bool grows = shape.addressing == Addressing::growing;
        const uint64_t most = grows ? pending : shape.size + num_own_rows;
        row_stride_ = shape.is_packed ? padded + rest : padded;
        rest_stride_ = shape.is_packed ? padded + rest : rest;
        const bool dense = grows || most * row_stride_ <= (uint64_t(4) << 30);
        if (!shape.path.empty()) {
            rows_.emplace(most * row_stride_, shape.path, shape.resident_bytes);
        } else {
            rows_.emplace(most * row_stride_, dense);
        }
        if (!shape.is_packed) rest_.emplace(most * rest_stride_, dense);
        row_base_ = rows_->data();
        rest_base_ = shape.is_packed ? row_base_ + padded : rest_->data();
        most_slots_ = std::min<uint64_t>(most, rows_->reserved() / row_stride_);
        if (rest_) most_slots_ = std::min<uint64_t>(most_slots_, rest_->reserved() / rest_stride_);
        if (most_slots_ > pending || (!grows && most_slots_ < most)) throw StorageError("no memory can be mapped for the rows of the table");
        if (grows) index_ = std::make_unique<Index>();
        if (rows_->in_file()) rows_->grow_to((grows ? num_own_rows : most) * row_stride_);
        for (int p = 0; p < most_parts; ++p) accounts_[size_t(p)].clear(p);
    }

    const Shape& shape() const { return shape_; }
    Account& account(int part) { return accounts_[size_t(part)]; }
    bool in_file() const { return rows_->in_file(); }
    Counts& counts(uint32_t slot) const {
        return *reinterpret_cast<Counts*>(rest_base_ + size_t(slot) * rest_stride_);
    }
    float* state(uint32_t slot) const { return reinterpret_cast<float*>(&counts(slot) + 1); }
    char* row(uint32_t slot) const { return row_base_ + size_t(slot) * row_stride_; }
    float* floats(uint32_t slot) const { return reinterpret_cast<float*>(row(slot)); }
    bfloat16* halves(uint32_t slot) const { return reinterpret_cast<bfloat16*>(row(slot)); }

    void read_row(uint32_t slot, float* to) const {
        if (shape_.is_bfloat16) to_float(halves(slot), to, shape_.width);
        else std::memcpy(to, row(slot), size_t(shape_.width) * 4);
    }
    // A copy of a row, and of its state, as they are after tick.step.
    template <class Rule> void fresh_row(uint32_t slot, const Rule& rule, const Tick& tick, float* row, float* state) const {
        const Counts& its = counts(slot);
        read_row(slot, row);
        std::copy_n(this->state(slot), shape_.state_width, state);
        if (rule.catches_up() && its.last < tick.step) rule.refresh(row, state, shape_.width, its.last, tick);
    }
    [[gnu::always_inline]] void prefetch(uint32_t slot) const {  // see Index::prefetch
        const char* at = row(slot);
        for (size_t b = 0; b < row_stride_; b += 64) __builtin_prefetch(at + b, 1);
        if (!shape_.is_packed) __builtin_prefetch(&counts(slot), 1);
    }

    // f(rule, row as floats, state, last): runs a rule on a row where it stands; halves are rounded by (seed, key, step).
    template <class Rule, class F> void on_row(const Rule& rule, uint32_t slot, int64_t key, uint32_t step, F f) {
        Counts& its = counts(slot);
        if (shape_.is_bfloat16) {
            float wide[max_width];
            to_float(halves(slot), wide, shape_.width);
            f(rule, wide, state(slot), its.last);
            to_bfloat16(wide, halves(slot), shape_.width, rounding(key, step));
        } else {
            f(rule, floats(slot), state(slot), its.last);
        }
        its.last = step;
        its.changed = 1;
    }

    uint64_t rounding(int64_t key, uint32_t step) const { return mix64(mix64(shape_.seed ^ uint64_t(key)) + step); }

    // Which of `parts` threads has to do with an id: the owner of its shard, or of its slot.
    int owner_of_hash(uint64_t hash, int parts) const { return int(uint64_t(Index::shard_of(hash)) * uint64_t(parts) >> 10); }
    int owner_of_slot(uint32_t slot, int parts) const { return int(uint64_t(slot * 0x9E3779B1u) * uint64_t(parts) >> 32); }

    // The slot of an id of a direct or hashed table.
    uint32_t own_slot(int64_t id) const {
        if (id == missing_id) return missing_slot;
        if (shape_.addressing == Addressing::hashed)
            return num_own_rows + uint32_t(mix64(uint64_t(id) ^ shape_.salt) % shape_.size);
        return uint64_t(id) < shape_.size ? num_own_rows + uint32_t(id) : default_slot;
    }
    int64_t key_of(uint32_t slot, int64_t id) const {
        return shape_.addressing == Addressing::hashed ? int64_t(slot) - num_own_rows : id;
    }

    // --- growing tables ---
    bool grows() const { return shape_.addressing == Addressing::growing; }
    [[gnu::always_inline]] void prefetch_entry(uint64_t hash) const { index_->prefetch(hash); }
    uint32_t found(int64_t id, uint64_t hash) const {
        const uint32_t* at = index_->find(uint64_t(id), hash);
        return at == nullptr || (*at & pending) ? default_slot : *at;
    }

    // The slot of an id seen in training: its own, made now if this sighting admits it, or the default row's.
    uint32_t sighted(int64_t id, uint64_t hash, int part) {
        if (shape_.size != 0 && uint64_t(id) >= shape_.size) return default_slot;
        uint32_t* at = index_->find(uint64_t(id), hash);
        return at != nullptr && !(*at & pending) ? *at : sighted_without_row(at, id, hash, part);
    }

    // Gets memory for rows to come, a little a step; see Slab. Called when nothing is lent.
    bool take_ahead() {
        const size_t slots = next_slot_.load();
        return rows_->take_ahead(slots * row_stride_) || (rest_ && rest_->take_ahead(slots * rest_stride_)) || index_->take_ahead();
    }

    // Drops the rows of some shards that were not lent for too long, and the least seen of those that are too full.
    // Called once a step, when nothing is lent.
    void evict(uint32_t step) {
        if (shape_.max_age_steps != 0 && step >= shape_.max_age_steps) sweep(step);
        if (shape_.max_rows == 0) return;
        const auto most = uint32_t(shape_.max_rows / Index::num_shards);
        for (int s = 0; s < Index::num_shards; ++s) {  // which fill alike: were all full at once, a step would wait for all
            const uint32_t quota = most - most / 8 * uint32_t(s) / Index::num_shards;
            if (const uint32_t count = index_->count(s); count > quota) evict_rarest(s, count - (quota - quota / 8));
        }
    }

    void sweep(uint32_t step) {
        const uint32_t round = std::max(1u, shape_.max_age_steps / 4);  // steps in which each shard has its turn once
        const auto upto = [&](uint64_t t) { return int(t * Index::num_shards / round); };
        for (int s = upto(step % round); s < upto(step % round + 1); ++s) evict_oldest(s, step - shape_.max_age_steps);
    }

    // A row at its start: the state is 0, and decay is owed from the first step on, as by each row of a dense table.
    void bear(uint32_t slot, int64_t key, uint32_t sightings) {
        Counts& its = counts(slot);
        its = {0, 0, sightings, 1};
        std::memset(state(slot), 0, size_t(shape_.state_width) * 4);
        float start[max_width];
        float* to = shape_.is_bfloat16 ? start : floats(slot);
        if (shape_.init_scale != 0) uniform_row(to, shape_.width, shape_.seed, uint64_t(key), shape_.init_scale);
        else std::memset(to, 0, size_t(shape_.width) * 4);
        if (shape_.is_bfloat16) to_bfloat16(start, halves(slot), shape_.width, mix64(shape_.seed ^ uint64_t(key)));
    }

    // Makes the slot of a key usable, for rows that are brought in from outside.
    uint32_t slot_for(int64_t key, uint32_t sightings) {
        if (key == default_key) return default_slot;
        if (key == missing_id) return missing_slot;
        if (!grows()) {
            if (key < 0 || uint64_t(key) >= shape_.size) throw StorageError("a row's key lies outside the table");
            return num_own_rows + uint32_t(key);
        }
        const uint64_t hash = Index::hash(uint64_t(key));
        const bool waits = sightings < shape_.admission;
        uint32_t* at = index_->find(uint64_t(key), hash);
        if (at != nullptr && !(*at & pending)) {
            if (!waits) return *at;
            free_.push_back(*at);
        }
        const uint32_t slot = waits ? pending | sightings : born(key, accounts_[0]);
        if (at != nullptr) *at = slot;
        else enter(key, hash, slot);
        return slot;
    }
    // Frees the rows first and then lays out each shard once.
    void remove(std::span<const int64_t> keys) {
        std::vector<bool> is_hit(Index::num_shards, false);
        for (const int64_t key : keys) {
            const uint64_t hash = Index::hash(uint64_t(key));
            uint32_t* at = index_->find(uint64_t(key), hash);
            if (at == nullptr) continue;
            if (tracks_removed_) accounts_[0].removed.push_back(key);
            if (!(*at & pending)) free_.push_back(*at);
            *at = pending;  // waits, and was never seen: nothing
            is_hit[size_t(Index::shard_of(hash))] = true;
        }
        for (int s = 0; s < Index::num_shards; ++s)
            if (is_hit[size_t(s)]) index_->rebuild(s, [](uint64_t, uint32_t& slot) { return slot != pending; });
    }

    // f(key, slot) for the rows of shard s, waiting ones too.
    template <class F> void each_in_shard(int s, F f) const {
        index_->each(s, [&](uint64_t id, uint32_t& slot) { f(int64_t(id), slot); });
    }
    // f(id, sightings) for the ids of shard s that wait for a row.
    template <class F> void each_waiting(int s, F f) const {
        each_in_shard(s, [&](int64_t id, uint32_t slot) {
            if (slot & pending) f(id, slot & ~pending);
        });
    }
    uint64_t num_slots() const { return grows() ? next_slot_.load() : shape_.size + num_own_rows; }

    void about_to_touch(uint32_t slot, bool is_new = false) {
        rows_->about_to_touch(size_t(slot) * row_stride_, row_stride_, is_new);
    }
    void touch() { rows_->touch(); }
    void keep_bound() { rows_->keep_bound(); }

    // --- what it amounts to ---
    uint64_t num_rows() const {
        if (!grows()) return shape_.size + num_own_rows;
        uint64_t num_free = free_.size();
        for (const Account& account : accounts_) num_free += account.spare.size();
        return next_slot_.load() - num_free;
    }
    uint64_t num_seen() const {
        if (grows()) return num_rows() - num_own_rows;
        uint64_t seen = 0;
        for (const Account& account : accounts_) seen += account.num_seen;
        return seen;
    }
    uint64_t num_waiting() const {  // ids of a growing table that were seen too seldom for a row
        if (!grows()) return 0;
        uint64_t known = 0;
        for (int s = 0; s < Index::num_shards; ++s) known += index_->count(s);
        return known - num_seen();
    }
    uint64_t num_bytes() const {
        return num_slots() * (row_stride_ + (shape_.is_packed ? 0 : rest_stride_)) + (grows() ? index_->num_bytes() : 0);
    }
    uint64_t num_resident() const { return rows_->num_resident(); }
    uint64_t num_evicted(bool by_age) const {
        uint64_t evicted = 0;
        for (const Account& a : accounts_) evicted += by_age ? a.num_evicted_by_age : a.num_evicted_by_frequency;
        return evicted;
    }
    void track_removed(bool on) { tracks_removed_ = on; }
    std::vector<int64_t> take_removed() {
        std::vector<int64_t> all;
        for (Account& account : accounts_) {
            all.insert(all.end(), account.removed.begin(), account.removed.end());
            account.removed.clear();
        }
        return all;
    }

    int parts = 1;            // how many threads share the rows lent now
    bool is_lending = false;  // since when `parts` must stay as it is

    static constexpr int max_width = 1024, most_state = 2 * max_width + 2;

   private:
    [[gnu::noinline]] uint32_t sighted_without_row(uint32_t* at, int64_t id, uint64_t hash, int part) {
        Account& account = accounts_[size_t(part)];
        const uint32_t count = at == nullptr ? 1 : (*at & ~pending) + 1;
        const uint32_t slot = count < shape_.admission ? pending | count : born(id, account);
        if (at != nullptr) *at = slot;
        else enter(id, hash, slot);
        return slot & pending ? default_slot : slot;
    }

    uint32_t born(int64_t id, Account& account) {
        if (account.spare.empty()) take_slots(account);
        const uint32_t slot = account.spare.back();
        account.spare.pop_back();
        if (in_file()) about_to_touch(slot, true);
        bear(slot, id, shape_.admission - 1);
        return slot;
    }

    void enter(int64_t id, uint64_t hash, uint32_t slot) {
        const int s = Index::shard_of(hash);
        if (index_->is_full(s)) index_->rebuild(s, [](uint64_t, uint32_t&) { return true; });
        index_->insert(uint64_t(id), hash, slot);
    }

    void take_slots(Account& account) {
        const std::lock_guard lock(slots_lock_);
        for (; !free_.empty() && account.spare.size() < 32; free_.pop_back()) account.spare.push_back(free_.back());
        if (!account.spare.empty()) return;
        const uint32_t from = next_slot_.load();
        const uint32_t to = from + 32;
        if (to > most_slots_) throw StorageError("no addresses are left for more rows");
        if (rows_->in_file()) rows_->grow_to(size_t(to) * row_stride_);
        next_slot_.store(to);
        for (uint32_t slot = to; slot-- > from;) account.spare.push_back(slot);
    }

    // Counts of the rows of a shard are about to be read.
    void visit_counts(int s) {
        each_in_shard(s, [&](int64_t, uint32_t slot) {
            if (slot & pending) return;
            if (in_file()) about_to_touch(slot);
            else __builtin_prefetch(&counts(slot));
        });
        if (in_file()) touch();
    }

    // Drops the rows of a shard that were seen least, the longest ago among equals, and by their hashes among those. The
    // others' counts are halved, so that what was popular once does not stay for ever.
    void evict_rarest(int s, uint32_t too_many) {
        using Rank = std::pair<uint64_t, uint64_t>;
        const auto rank = [&](uint64_t id, uint32_t slot) {
            if (slot & pending) return Rank(uint64_t(slot & ~pending) << 32, Index::hash(id));
            return Rank(uint64_t(counts(slot).sightings) << 32 | counts(slot).last, Index::hash(id));
        };
        std::vector<Rank> ranks;
        visit_counts(s);
        each_in_shard(s, [&](int64_t id, uint32_t slot) { ranks.push_back(rank(uint64_t(id), slot)); });
        const auto first_kept = ranks.begin() + std::ptrdiff_t(too_many);
        std::nth_element(ranks.begin(), first_kept, ranks.end());
        index_->rebuild(s, [&](uint64_t id, uint32_t& slot) {
            if (rank(id, slot) < *first_kept) {
                drop(int64_t(id), slot, accounts_[0].num_evicted_by_frequency);
                return false;
            }
            if (slot & pending) {
                slot = pending | ((slot & ~pending) + 1) / 2;
            } else {
                counts(slot).sightings = std::max(shape_.admission, (counts(slot).sightings + 1u) / 2);
                counts(slot).changed = 1;
            }
            return true;
        });
    }

    void evict_oldest(int s, uint32_t oldest) {
        bool any = false;
        visit_counts(s);
        each_in_shard(s, [&](int64_t, uint32_t slot) { any |= (slot & pending) || counts(slot).last < oldest; });
        if (!any) return;
        index_->rebuild(s, [&](uint64_t id, uint32_t& slot) {
            if (slot & pending) {
                slot = pending | (slot & ~pending) / 2;
                if (slot != pending) return true;
            } else if (counts(slot).last >= oldest) {
                return true;
            }
            drop(int64_t(id), slot, accounts_[0].num_evicted_by_age);
            return false;
        });
    }

    void drop(int64_t id, uint32_t slot, uint64_t& counter) {
        if (tracks_removed_) accounts_[0].removed.push_back(id);
        if (slot & pending) return;
        ++counter;
        free_.push_back(slot);
    }

    Shape shape_;
    size_t row_stride_, rest_stride_;
    char *row_base_, *rest_base_;
    uint64_t most_slots_;
    std::optional<Slab> rows_, rest_;
    std::unique_ptr<Index> index_;
    std::vector<Account> accounts_;
    std::vector<uint32_t> free_;
    std::mutex slots_lock_;
    std::atomic<uint32_t> next_slot_{num_own_rows};
    bool tracks_removed_ = false;
};

}  // namespace rankwell
