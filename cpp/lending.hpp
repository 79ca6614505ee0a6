// A batch through the tables: lend its rows, read them, sum what comes back, move them.
//
// Work is dealt to threads by table, and where one table has too much of the batch, by the owner of its rows: no row is
// ever touched by two threads, and the gradients of a row are summed in the order of the batch, so the outcome does not
// depend on the number of threads.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "store.hpp"
#include "threads.hpp"

namespace rankwell {

// One column of ids, where its rows go (row i to to + i·stride) and where their places are noted.
struct Column {
    int store;
    const int64_t* ids;
    size_t n;
    float* to;
    size_t stride;
    uint32_t* index;
};

// A column that comes back with its gradients.
struct Returned {
    int store;
    const uint32_t* index;
    size_t n;
    const float* grads;
    size_t stride;
};

// Rows are short and their width is only known when running: eight floats at a time beat a call to memcpy.
inline void copy_row(float* __restrict to, const float* __restrict from, int width) {
    int w = 0;
    for (; w + 8 <= width; w += 8) std::memcpy(to + w, from + w, 8 * sizeof(float));
    for (; w < width; ++w) to[w] = from[w];
}

// Ids that read the default row instead of their own, drawn by (key, place in the batch).
struct Draw {
    uint64_t key, below;
    bool operator()(size_t place) const { return below > 0 && mix64(key ^ mix64(place)) < below; }
};

class Tables {
   public:
    Tables(const std::vector<Shape>& shapes) {
        for (const Shape& shape : shapes) stores_.push_back(std::make_unique<Store>(shape));
    }

    Tables(const Tables&) = delete;
    Tables& operator=(const Tables&) = delete;

    Store& store(int t) { return *stores_.at(size_t(t)); }

    // In training: counts the sightings, makes rows, brings them up to date, copies them out.
    void lend(const std::vector<Column>& columns, const Draw& draw, const AnyRule& rule, const Tick& tick, int threads) {
        std::vector<size_t> places;
        size_t place = 0;
        for (const Column& c : columns) {
            places.push_back(place);
            place += c.n;
        }
        warm(columns);
        with_rule(rule, tick, [&](const auto& r) {
            fresh_own_rows(columns, r, tick);
            deal(columns, threads, true, [&](Store& store, int t, int part, int) {
                for (size_t c = 0; c < columns.size(); ++c)
                    if (columns[c].store == t) pass<true>(store, columns[c], part, places[c], draw, r, tick);
            });
        });
    }

    // The rows as they are after tick.step. What rows owe is paid in the copies: reading changes nothing, so any number
    // of threads may read at once, and training goes the same way whether or not somebody looked.
    void read(const std::vector<Column>& columns, const AnyRule& rule, const Tick& tick, int threads) {
        warm(columns);
        with_rule(rule, tick, [&](const auto& r) {
            deal(columns, threads, false, [&](Store& store, int t, int part, int parts) {
                for (const Column& c : columns) {
                    if (c.store != t) continue;
                    const size_t begin = c.n * size_t(part) / size_t(parts), end = c.n * size_t(part + 1) / size_t(parts);
                    pass<false>(store, {t, c.ids + begin, end - begin, c.to + begin * c.stride, c.stride, nullptr}, 0, 0,
                                Draw{0, 0}, r, tick);
                }
            });
        });
        keep_bounds();
    }

    // Sums the gradients of each row lent; returns the sum of their squares, not finite if any gradient is not.
    double collect(const std::vector<Returned>& columns, int threads) {
        each_account([](Account& account, int) {
            account.has_grad.clear();
            account.square = {};
        });
        deal(columns, threads, false, [&](Store& store, int t, int part, int) { sum(store, t, part, columns); });
        Sum square;
        each_account([&](Account& account, int) {
            square.add(account.square.high);
            square.add(account.square.low);
        });
        return square.high + square.low;
    }

    // Moves the rows that have a gradient, once, by the gradient times `scale`.
    void apply(const AnyRule& rule, const Tick& tick, double scale, int threads) {
        std::vector<Unit> units;
        for (int t = 0; t < int(stores_.size()); ++t)
            for (int p = 0; p < stores_[size_t(t)]->parts; ++p)
                if (const size_t n = stores_[size_t(t)]->account(p).has_grad.size()) units.push_back({n, t, p, 0});
        with_rule(rule, tick, [&](const auto& r) {
            run(units, threads, [&](const Unit& u) { move(store(u.store), u.part, r, tick, float(scale)); });
        });
        abandon();
        for (auto& store : stores_)
            if (store->grows()) store->evict(tick.step);
        keep_bounds();
    }

    void abandon() {
        each_account([](Account& account, int part) { account.clear(part); });
        for (auto& store : stores_) store->is_lending = false;
    }

   private:
    struct Unit {
        size_t n;
        int store, part, parts;
    };
    static constexpr size_t ahead = 16;      // rows whose cache misses are under way at once
    static constexpr size_t too_few = 2048;  // ids for which waking a thread costs more than it saves

    // Deals tables, or parts of them, to threads: the largest first, each to the thread with the least.
    template <class C, class Work>
    void deal(const std::vector<C>& columns, int threads, bool decides, Work work) {
        std::vector<size_t> n(stores_.size(), 0);
        for (const C& c : columns) n[size_t(c.store)] += c.n;
        const size_t total = std::accumulate(n.begin(), n.end(), size_t(0));
        if (total < too_few) threads = 1;
        std::vector<Unit> units;
        for (int t = 0; t < int(n.size()); ++t) {
            if (n[size_t(t)] == 0) continue;
            Store& store = *stores_[size_t(t)];
            const bool splits = threads > 1 && !store.in_file() && n[size_t(t)] * 2 * size_t(threads) > total &&
                                size_t(threads) * 2 > stores_.size();
            int parts = splits ? std::min(threads, most_parts) : 1;
            if (decides && !store.is_lending) {
                store.parts = parts;
                store.is_lending = true;
            }
            if (decides || std::is_same_v<C, Returned>) parts = store.parts;  // what is lent stays dealt as it was
            for (int p = 0; p < parts; ++p) units.push_back({n[size_t(t)] / size_t(parts), t, p, parts});
        }
        run(units, threads, [&](const Unit& u) { work(store(u.store), u.store, u.part, u.parts); });
    }

    template <class F> void each_account(F f) {
        for (auto& store : stores_)
            for (int p = 0; p < most_parts; ++p) f(store->account(p), p);
    }

    void keep_bounds() {
        const std::lock_guard lock(files_lock_);
        for (auto& store : stores_)
            if (store->in_file()) store->keep_bound();
    }

    template <class Work> void run(std::vector<Unit>& units, int threads, Work work) {
        std::stable_sort(units.begin(), units.end(), [](const Unit& a, const Unit& b) { return a.n > b.n; });
        std::vector<std::vector<Unit>> of(static_cast<size_t>(threads));
        std::vector<size_t> load(static_cast<size_t>(threads), 0);
        size_t total = 0;
        for (const Unit& unit : units) {
            const auto least = size_t(std::min_element(load.begin(), load.end()) - load.begin());
            of[least].push_back(unit);
            load[least] += unit.n;
            total += unit.n;
        }
        const auto one = [&](int thread) {
            for (const Unit& unit : of[size_t(thread)]) work(unit);
        };
        static std::unique_ptr<Threads> pool;
        static std::mutex pool_lock;  // whoever finds the pool busy with another's work does his own alone
        std::unique_lock lock(pool_lock, std::defer_lock);
        if (threads > 1 && total >= too_few && !of[1].empty() && lock.try_lock()) {
            if (!pool || pool->count() != threads || !pool->is_ours()) pool = std::make_unique<Threads>(threads);
            pool->run(one);
        } else {
            for (int thread = 0; thread < threads; ++thread) one(thread);
        }
    }

    // Brings a row up to date where it stands.
    template <class Rule> static void freshen(Store& store, uint32_t slot, int64_t key, const Rule& rule, const Tick& tick) {
        if (!rule.catches_up() || store.counts(slot).last >= tick.step) return;
        store.on_row(rule, slot, key, tick.step, [&](const Rule& r, float* w, float* s, uint32_t last) {
            r.refresh(w, s, store.shape().width, last, tick);
        });
    }

    template <class Rule> void fresh_own_rows(const std::vector<Column>& columns, const Rule& rule, const Tick& tick) {
        if (!rule.catches_up()) return;
        for (const Column& c : columns) {
            freshen(store(c.store), default_slot, default_key, rule, tick);
            freshen(store(c.store), missing_slot, missing_id, rule, tick);
        }
    }

    // Tells the system which pages of a file are about to be read, all at once instead of one fault after another.
    void warm(const std::vector<Column>& columns) {
        const std::lock_guard lock(files_lock_);
        for (const Column& c : columns) {
            Store& store = *stores_[size_t(c.store)];
            if (!store.in_file()) continue;
            constexpr size_t ahead = 32;
            for (size_t i = 0; i < c.n; ++i) {
                if (store.grows() && i + ahead < c.n) store.prefetch_entry(Index::hash(uint64_t(c.ids[i + ahead])));
                const int64_t id = c.ids[i];
                const bool looks_up = store.grows() && id != missing_id;
                store.about_to_touch(looks_up ? store.found(id, Index::hash(uint64_t(id))) : store.own_slot(id));
            }
        }
    }

    // Three stages a block, each a block ahead of the next, so that some hundred cache misses are under way at once:
    // find where the id's entry stands; find its slot; copy its row.
    template <bool lends, class Rule>
    void pass(Store& store, const Column& column, int part, size_t place, const Draw& draw, const Rule& rule,
              const Tick& tick) {
        constexpr size_t block = 32, ring = 3;
        const int parts = lends ? store.parts : 1;
        const bool grows = store.grows(), owes = rule.catches_up();
        const int width = store.shape().width;
        const uint32_t admission = store.shape().admission;
        Account& account = store.account(part);
        std::array<std::array<uint64_t, block>, ring> hashes;
        std::array<std::array<uint32_t, block>, ring> slots;
        std::array<std::array<bool, block>, ring> mine;
        const size_t num_blocks = (column.n + block - 1) / block;
        std::array<std::vector<float>, num_own_rows> own;  // for a reader whom rows owe something
        std::vector<float> state;
        if (!lends && owes) {
            state.resize(size_t(store.shape().state_width));
            for (uint32_t slot = 0; slot < num_own_rows; ++slot) {
                own[slot].resize(size_t(width));
                store.fresh_row(slot, rule, tick, own[slot].data(), state.data());
            }
        }

        const auto locate = [&](size_t b) {
            const size_t begin = b * block, size = std::min(block, column.n - begin);
            for (size_t j = 0; j < size; ++j) {
                const int64_t id = column.ids[begin + j];
                if (grows) {
                    const uint64_t hash = hashes[b % ring][j] = Index::hash(uint64_t(id));
                    mine[b % ring][j] = parts == 1 || (id == missing_id ? 0 : store.owner_of_hash(hash, parts)) == part;
                    if (mine[b % ring][j]) store.prefetch_entry(hash);
                } else {
                    const uint32_t slot = slots[b % ring][j] = store.own_slot(id);
                    mine[b % ring][j] = parts == 1 || (slot < num_own_rows ? 0 : store.owner_of_slot(slot, parts)) == part;
                    if (mine[b % ring][j]) store.prefetch(slot);
                }
            }
        };
        const auto find = [&](size_t b) {
            const size_t begin = b * block, size = std::min(block, column.n - begin);
            for (size_t j = 0; j < size; ++j) {
                if (!mine[b % ring][j]) continue;
                const int64_t id = column.ids[begin + j];
                __builtin_prefetch(column.to + (begin + j) * column.stride, 1);
                uint32_t& slot = slots[b % ring][j];
                if (id == missing_id) {
                    slot = missing_slot;
                } else if (lends && draw(place + begin + j)) {
                    slot = default_slot;  // no sighting: its own row learns nothing from it
                } else if (grows) {
                    const uint64_t hash = hashes[b % ring][j];
                    slot = lends ? store.sighted(id, hash, part) : store.found(id, hash);
                    store.prefetch(slot);
                }
            }
        };
        const auto copy = [&](size_t b) {
            const size_t begin = b * block, size = std::min(block, column.n - begin);
            for (size_t j = 0; j < size; ++j) {
                if (!mine[b % ring][j]) continue;
                const size_t i = begin + j;
                uint32_t slot = slots[b % ring][j], u = slot;
                if (slot >= num_own_rows) {
                    Counts& its = store.counts(slot);
                    const int64_t key = store.key_of(slot, column.ids[i]);
                    if (lends) {
                        its.sight();
                        if (!grows && its.sightings <= admission) {
                            if (its.sightings == 1) ++account.num_seen;
                            if (its.sightings == admission) store.bear(slot, key, admission);
                        }
                    }
                    if (!grows && its.sightings < admission) {
                        u = slot = default_slot;
                    } else {
                        u = its.u;
                        if constexpr (lends) {
                            if (u >= account.slots.size() || account.slots[u] != slot) {
                                its.u = u = uint32_t(account.slots.size());
                                account.slots.push_back(slot);
                                account.keys.push_back(key);
                            }
                            if (owes) freshen(store, slot, key, rule, tick);
                        }
                    }
                }
                if constexpr (lends) column.index[i] = (slot < num_own_rows ? 0 : uint32_t(part) << part_shift) | u;
                float* to = column.to + i * column.stride;
                if (!lends && owes) {
                    if (slot < num_own_rows) copy_row(to, own[slot].data(), width);
                    else store.fresh_row(slot, rule, tick, to, state.data());
                } else if (store.shape().is_bfloat16) to_float(store.halves(slot), to, width);
                else copy_row(to, store.floats(slot), width);
            }
        };
        for (size_t b = 0; b < num_blocks + 2; ++b) {
            if (b < num_blocks) locate(b);
            if (b >= 1 && b - 1 < num_blocks) find(b - 1);
            if (b >= 2) copy(b - 2);
        }
    }

    void sum(Store& store, int t, int part, const std::vector<Returned>& columns) {
        Account& account = store.account(part);
        const size_t width = size_t(store.shape().width), size = account.slots.size();
        if (account.grads.size() < size * width) account.grads.resize(size * width);
        account.has_grad.assign(size, 0);
        for (const Returned& column : columns) {
            if (column.store != t) continue;
            for (size_t i = 0; i < column.n; ++i) {
                __builtin_prefetch(column.grads + std::min(i + ahead, column.n - 1) * column.stride);
                const uint32_t at = column.index[i];
                if (int(at >> part_shift) != part) continue;
                const size_t u = at & u_mask;
                float* __restrict to = account.grads.data() + u * width;
                const float* __restrict from = column.grads + i * column.stride;
                if (account.has_grad[u]) {
                    for (size_t w = 0; w < width; ++w) to[w] += from[w];
                } else {
                    account.has_grad[u] = 1;
                    copy_row(to, from, int(width));
                }
            }
        }
        for (size_t u = 0; u < size; ++u)
            if (account.has_grad[u]) account.square.add(sum_of_squares(account.grads.data() + u * width, int(width)));
    }

    template <class Rule> void move(Store& store, int part, const Rule& rule, const Tick& tick, float scale) {
        Account& account = store.account(part);
        const int width = store.shape().width;
        const size_t size = account.has_grad.size();
        for (size_t u = 0; u < std::min(size, ahead); ++u) store.prefetch(account.slots[u]);
        for (size_t u = 0; u < size; ++u) {
            if (u + ahead < size) store.prefetch(account.slots[u + ahead]);
            if (!account.has_grad[u]) continue;
            float* grads = account.grads.data() + u * size_t(width);
            if (scale != 1) for (int w = 0; w < width; ++w) grads[w] *= scale;
            store.on_row(rule, account.slots[u], account.keys[u], tick.step,
                         [&](const Rule& r, float* w, float* s, uint32_t last) { r.update(w, grads, s, width, last, tick); });
        }
    }

    std::vector<std::unique_ptr<Store>> stores_;
    std::mutex files_lock_;
};

}  // namespace rankwell
