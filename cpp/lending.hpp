// A batch through the tables: lend its rows, read them, sum what comes back, move them.
//
// Work is dealt to threads by table, and where one table has too much of the batch, by the owner of its rows: no row is
// ever touched by two threads, and the gradients of a row are summed in the order of the batch, so the outcome does not
// depend on the number of threads.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <type_traits>
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

// Calls f(width), with a width that the compiler knows where it is one of the usual ones.
template <class F> void with_width(int width, F f) {
    switch (width) {
        case 1: return f(std::integral_constant<int, 1>());
        case 8: return f(std::integral_constant<int, 8>());
        case 16: return f(std::integral_constant<int, 16>());
        case 32: return f(std::integral_constant<int, 32>());
        default: return f(width);
    }
}

// Rows are short: eight floats at a time beat a call to memcpy.
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
        Owed owed;
        with_rule(rule, tick, [&](const auto& r) {
            if (!r.catches_up()) return;
            for (const Column& c : columns) {
                freshen(store(c.store), default_slot, default_key, r, tick);
                freshen(store(c.store), missing_slot, missing_id, r, tick);
            }
            owed = [r, &tick](Store& store, uint32_t slot, int64_t key, float*) { freshen(store, slot, key, r, tick); };
        });
        deal(columns, threads, true, [&](Store& store, int t, int part, int) {
            with_width(store.shape().width, [&](auto width) {
                for (size_t c = 0; c < columns.size(); ++c)
                    if (columns[c].store == t) pass<true>(store, columns[c], part, places[c], draw, owed, width);
            });
        });
    }

    // The rows as they are after tick.step. What rows owe is paid in the copies: reading changes nothing, so any number
    // of threads may read at once, and training goes the same way whether or not somebody looked.
    void read(const std::vector<Column>& columns, const AnyRule& rule, const Tick& tick, int threads) {
        warm(columns);
        Owed owed;
        with_rule(rule, tick, [&](const auto& r) {
            if (!r.catches_up()) return;
            owed = [r, &tick](Store& store, uint32_t slot, int64_t, float* to) {
                float state[Store::most_state];
                store.fresh_row(slot, r, tick, to, state);
            };
        });
        deal(columns, threads, false, [&](Store& store, int t, int part, int parts) {
            with_width(store.shape().width, [&](auto width) {
                for (const Column& c : columns) {
                    if (c.store != t) continue;
                    const size_t begin = c.n * size_t(part) / size_t(parts), end = c.n * size_t(part + 1) / size_t(parts);
                    pass<false>(store, {t, c.ids + begin, end - begin, c.to + begin * c.stride, c.stride, nullptr}, 0, 0,
                                Draw{0, 0}, owed, width);
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
        deal(columns, threads, false, [&](Store& store, int t, int part, int) {
            with_width(store.shape().width, [&](auto width) { sum(store, t, part, columns, width); });
        });
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
        bool took = false;
        for (size_t t = 0; t < stores_.size(); ++t) {
            Store& store = *stores_[(t + tick.step) % stores_.size()];  // each has its turn to be the first
            if (!store.grows()) continue;
            store.evict(tick.step);
            if (!took) took = store.take_ahead();
        }
        keep_bounds();
    }

    void abandon() {
        each_account([](Account& account, int part) { account.clear(part); });
        for (auto& store : stores_) store->is_lending = false;
    }

   private:
    // What a row owes under a rule that goes on while the row is away: paid where it stands, or in a copy of it. Empty
    // under other rules. Behind one call, so that `pass` is not compiled for every rule.
    using Owed = std::function<void(Store&, uint32_t slot, int64_t key, float* copy)>;
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
            store.touch();
        }
    }

    // Three stages an id, some ids apart, so that a few dozen cache misses are under way at once: find where the id's
    // entry stands; find its slot; copy its row. What cannot be foretold for an id (is it this thread's? was it lent
    // before?) is computed, not branched on: a branch gone wrong throws away the work that hides the misses.
    template <bool lends, class Width>
    void pass(Store& store, const Column& column, int part, size_t place, const Draw& draw, const Owed& owed, Width width) {
        constexpr size_t ring = 32, lead = 12;
        static_assert(2 * lead < ring);
        const bool grows = store.grows(), owes = bool(owed), is_bfloat16 = store.shape().is_bfloat16;
        const uint32_t admission = store.shape().admission;
        Account& account = store.account(part);
        std::array<uint64_t, ring> hashes;
        std::array<uint32_t, ring> slots;
        const bool shares = lends && store.parts > 1;
        const size_t n = shares ? find_mine(store, column, part) : column.n;
        const auto at = [&](size_t k) { return shares ? size_t(account.mine[k]) : k; };
        if (lends) account.make_room(n);

        const auto locate = [&](size_t k) {
            const int64_t id = column.ids[at(k)];
            if (grows) store.prefetch_entry(hashes[k % ring] = Index::hash(uint64_t(id)));
            else store.prefetch(slots[k % ring] = store.own_slot(id));
        };
        const auto find = [&](size_t k) {
            const size_t i = at(k);
            const int64_t id = column.ids[i];
            __builtin_prefetch(column.to + i * column.stride, 1);
            uint32_t& slot = slots[k % ring];
            if (id == missing_id) {
                slot = missing_slot;
            } else if (lends && draw(place + i)) {
                slot = default_slot;  // no sighting: its own row learns nothing from it
            } else if (grows) {
                const uint64_t hash = hashes[k % ring];
                slot = lends ? store.sighted(id, hash, part) : store.found(id, hash);
                store.prefetch(slot);
            }
        };
        const auto copy = [&](size_t k) {
            const size_t i = at(k);
            uint32_t slot = slots[k % ring], u = slot;
            const int64_t key = store.key_of(slot, column.ids[i]);
            if (slot >= num_own_rows) {
                Counts& its = store.counts(slot);
                if (lends) {
                    its.sight();
                    if (!grows && its.sightings <= admission) {
                        account.num_seen += its.sightings == 1;
                        if (its.sightings == admission) store.bear(slot, key, admission);
                    }
                }
                if (!grows && its.sightings < admission) {
                    u = slot = default_slot;
                } else if (lends) {
                    its.u = u = account.place_of(slot, key, its.u);
                    if (owes) owed(store, slot, key, nullptr);
                }
            }
            if (lends) column.index[i] = (slot < num_own_rows ? 0 : uint32_t(part) << part_shift) | u;
            float* to = column.to + i * column.stride;
            if (!lends && owes) owed(store, slot, key, to);
            else if (is_bfloat16) to_float(store.halves(slot), to, width);
            else copy_row(to, store.floats(slot), width);
        };
        for (size_t k = 0; k < n + 2 * lead; ++k) {
            if (k < n) locate(k);
            if (k >= lead && k < n + lead) find(k - lead);
            if (k >= 2 * lead) copy(k - 2 * lead);
        }
    }

    // Notes which places of a column are the part's own; returns how many.
    static size_t find_mine(Store& store, const Column& column, int part) {
        std::vector<uint32_t>& mine = store.account(part).mine;
        mine.resize(column.n + 1);
        size_t n = 0;
        for (size_t i = 0; i < column.n; ++i) {
            const int64_t id = column.ids[i];
            int owner = 0;
            if (store.grows()) {
                owner = id == missing_id ? 0 : store.owner_of_hash(Index::hash(uint64_t(id)), store.parts);
            } else if (const uint32_t slot = store.own_slot(id); slot >= num_own_rows) {
                owner = store.owner_of_slot(slot, store.parts);
            }
            mine[n] = uint32_t(i);
            n += owner == part;
        }
        return n;
    }

    template <class Width> void sum(Store& store, int t, int part, const std::vector<Returned>& columns, Width width) {
        Account& account = store.account(part);
        const size_t size = account.num_lent, row = size_t(width);
        account.grads.assign(size * row, 0);
        account.has_grad.assign(size, 0);
        for (const Returned& column : columns) {
            if (column.store != t) continue;
            const auto add = [&](size_t i, uint32_t u) {
                account.has_grad[u] = 1;
                float* __restrict to = account.grads.data() + u * row;
                const float* __restrict from = column.grads + i * column.stride;
                for (int w = 0; w < width; ++w) to[w] += from[w];
            };
            const auto prefetch = [&](size_t i) { __builtin_prefetch(column.grads + i * column.stride); };
            if (store.parts == 1) {
                for (size_t i = 0; i < column.n; ++i) {
                    prefetch(std::min(i + ahead, column.n - 1));
                    add(i, column.index[i]);
                }
                continue;
            }
            account.mine.resize(column.n + 1);
            size_t n = 0;
            for (size_t i = 0; i < column.n; ++i) {
                account.mine[n] = uint32_t(i);
                n += int(column.index[i] >> part_shift) == part;
            }
            for (size_t k = 0; k < n; ++k) {
                prefetch(account.mine[std::min(k + ahead, n - 1)]);
                add(account.mine[k], column.index[account.mine[k]] & u_mask);
            }
        }
        for (size_t u = 0; u < size; ++u)
            if (account.has_grad[u]) account.square.add(sum_of_squares(account.grads.data() + u * row, width));
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
