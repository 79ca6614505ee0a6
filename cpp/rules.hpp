// Rules that move one row: the compiled twins of the classes in src/rankwell/tables, which hold the formulas, the
// sources, and the reference that these are tested against.
//
// A rule is a struct with its settings and
//   int state_width(int width) const;
//   template <class Real> void move(Real* w, const Real* g, Real* s, int width, uint32_t last, const Tick&) const;
// It may have
//   void begin(const Tick&);   what is the same for all rows of a step
//   template <class Real> void catch_up(Real* w, Real* s, int width, uint32_t last, const Tick&, const Shrinkage&) const;
//                              the steps missed, decay and lasso included, where state or moves go on in them
//   static constexpr bool moves_when_away, starts_at_zero;   true; false where it says nothing
//
// The loops vectorise with -O3 -fno-math-errno -fno-trapping-math, which change no number.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace rankwell {

// What a rule knows of time: a view of tables/clock.py. rates[k], rate_sums[k] and log_shrinks[k] are those of step k.
struct Tick {
    uint32_t step;
    double rate;
    const double* rates;
    const double* rate_sums;
    const double* log_shrinks;
};

// In eight partial sums, so that no addition waits for the one before it.
template <class Real> double sum_of_squares(const Real* x, int width) {
    double parts[8] = {};
    int i = 0;
    for (; i + 8 <= width; i += 8)
        for (int j = 0; j < 8; ++j) parts[j] += double(x[i + j]) * double(x[i + j]);
    for (int j = 0; i < width; ++i, ++j) parts[j] += double(x[i]) * double(x[i]);
    return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
}

template <class Real> void scale(Real* x, int width, double factor) {
    const Real by = Real(factor);
    for (int i = 0; i < width; ++i) x[i] *= by;
}

// A sum of squares that has overflowed stays a number.
template <class Real> Real finite(Real sum) { return std::min(sum, std::numeric_limits<Real>::max()); }

// What all rules share.
struct Shrinkage {
    double decay = 0;
    double group_lasso = 0;

    // ‖w‖ ← max(0, ‖w‖ - strength · √width)
    template <class Real> void lasso(Real* w, int width, double strength) const {
        const double norm = std::sqrt(sum_of_squares(w, width)), threshold = strength * std::sqrt(double(width));
        if (norm > threshold) return scale(w, width, 1.0 - threshold / norm);
        std::fill_n(w, width, Real(0));
    }

    // All that the steps after `last` ask for, in closed form.
    template <class Real> void pay(Real* w, int width, uint32_t last, const Tick& tick) const {
        if (decay > 0) scale(w, width, std::exp(tick.log_shrinks[tick.step] - tick.log_shrinks[last]));
        if (group_lasso > 0) lasso(w, width, (tick.rate_sums[tick.step] - tick.rate_sums[last]) * group_lasso);
    }
};

struct Sgd {
    int state_width(int) const { return 0; }

    template <class Real>
    void move(Real* __restrict w, const Real* __restrict g, Real*, int width, uint32_t, const Tick& tick) const {
        const Real rate = Real(tick.rate);
        for (int i = 0; i < width; ++i) w[i] -= rate * g[i];
    }
};

struct Momentum {
    double momentum;
    bool nesterov;
    int state_width(int width) const { return width; }

    template <class Real>
    void move(Real* __restrict w, const Real* __restrict g, Real* __restrict b, int width, uint32_t,
              const Tick& tick) const {
        const Real keep = Real(momentum), rate = Real(tick.rate);
        const Real now = nesterov ? Real(1) : Real(0), ahead = nesterov ? keep : Real(1);
        for (int i = 0; i < width; ++i) {
            b[i] = keep * b[i] + g[i];
            w[i] -= rate * (now * g[i] + ahead * b[i]);
        }
    }
};

struct AdaGrad {
    double epsilon;
    int state_width(int width) const { return width; }

    template <class Real>
    void move(Real* __restrict w, const Real* __restrict g, Real* __restrict sum, int width, uint32_t,
              const Tick& tick) const {
        const Real rate = Real(tick.rate), eps = Real(epsilon);
        for (int i = 0; i < width; ++i) {
            sum[i] = finite(sum[i] + g[i] * g[i]);
            w[i] -= rate * g[i] / (std::sqrt(sum[i]) + eps);
        }
    }
};

struct RowWiseAdaGrad {
    double epsilon;
    int state_width(int) const { return 1; }

    template <class Real>
    void move(Real* __restrict w, const Real* __restrict g, Real* __restrict sum, int width, uint32_t,
              const Tick& tick) const {
        const double total = double(sum[0]) + sum_of_squares(g, width) / width;
        sum[0] = Real(std::min(total, double(std::numeric_limits<Real>::max())));
        const Real rate = Real(tick.rate / (std::sqrt(double(sum[0])) + epsilon));
        for (int i = 0; i < width; ++i) w[i] -= rate * g[i];
    }
};

struct RmsProp {
    double beta, epsilon;
    int state_width(int width) const { return width; }

    template <class Real>
    void move(Real* __restrict w, const Real* __restrict g, Real* __restrict v, int width, uint32_t,
              const Tick& tick) const {
        const Real keep = Real(beta), add = Real(1 - beta), rate = Real(tick.rate), eps = Real(epsilon);
        for (int i = 0; i < width; ++i) {
            v[i] = finite(keep * v[i] + add * g[i] * g[i]);
            w[i] -= rate * g[i] / (std::sqrt(v[i]) + eps);
        }
    }
};

// State: m, v, and with `own_steps` the row's t.
struct LazyAdam {
    double beta1, beta2, epsilon;
    bool own_steps, fades;
    double shared_pace = 0;

    int state_width(int width) const { return 2 * width + own_steps; }
    double pace(const Tick& tick, double step) const {
        return tick.rate * std::sqrt(1 - std::pow(beta2, step)) / (1 - std::pow(beta1, step));
    }
    void begin(const Tick& tick) { shared_pace = pace(tick, tick.step); }

    template <class Real> void fade(Real* s, int width, uint32_t missed) const {
        if (missed == 0) return;
        scale(s, width, std::pow(beta1, missed));
        scale(s + width, width, std::pow(beta2, missed));
        if (own_steps && s[2 * width] > 0) s[2 * width] += Real(missed);
    }

    template <class Real>
    void move(Real* __restrict w, const Real* __restrict g, Real* __restrict s, int width, uint32_t last,
              const Tick& tick) const {
        if (fades) fade(s, width, tick.step - 1 - last);
        if (own_steps) s[2 * width] += 1;
        const Real rate = Real(own_steps ? pace(tick, double(s[2 * width])) : shared_pace), eps = Real(epsilon);
        const Real keep1 = Real(beta1), add1 = Real(1 - beta1), keep2 = Real(beta2), add2 = Real(1 - beta2);
        Real* __restrict m = s;
        Real* __restrict v = s + width;
        for (int i = 0; i < width; ++i) {
            m[i] = keep1 * m[i] + add1 * g[i];
            v[i] = finite(keep2 * v[i] + add2 * g[i] * g[i]);
            w[i] -= rate * m[i] / (std::sqrt(v[i]) + eps);
        }
    }

    template <class Real>
    void catch_up(Real* w, Real* s, int width, uint32_t last, const Tick& tick, const Shrinkage& shrinkage) const {
        if (fades) fade(s, width, tick.step - last);
        shrinkage.pay(w, width, last, tick);
    }
};

// State: m, v. A row away replays its moves, `replayed_steps` of them at most.
struct Adam {
    static constexpr bool moves_when_away = true;
    double beta1, beta2, epsilon;
    uint32_t replayed_steps;
    double pace = 0, spread = 0;

    int state_width(int width) const { return 2 * width; }
    void begin(const Tick& tick) {
        pace = tick.rate / (1 - std::pow(beta1, tick.step));
        spread = 1 / std::sqrt(1 - std::pow(beta2, tick.step));
    }

    template <class Real>
    void move(Real* __restrict w, const Real* __restrict g, Real* __restrict s, int width, uint32_t,
              const Tick&) const {
        const Real keep1 = Real(beta1), add1 = Real(1 - beta1), keep2 = Real(beta2), add2 = Real(1 - beta2);
        const Real rate = Real(pace), by = Real(spread), eps = Real(epsilon);
        Real* __restrict m = s;
        Real* __restrict v = s + width;
        for (int i = 0; i < width; ++i) {
            m[i] = keep1 * m[i] + add1 * g[i];
            v[i] = finite(keep2 * v[i] + add2 * g[i] * g[i]);
            w[i] -= rate * m[i] / (std::sqrt(v[i]) * by + eps);
        }
    }

    template <class Real>
    void catch_up(Real* __restrict w, Real* __restrict s, int width, uint32_t last, const Tick& tick,
                  const Shrinkage& shrinkage) const {
        Real* __restrict m = s;
        Real* __restrict v = s + width;
        const uint32_t missed = tick.step - last;
        const bool still = std::all_of(m, m + width, [](Real x) { return x == 0; });
        const uint32_t replayed = still ? 0 : std::min(missed, replayed_steps);
        const Real eps = Real(epsilon);
        double power1 = std::pow(beta1, last), power2 = std::pow(beta2, last), faded1 = 1, faded2 = 1;
        if (replayed)
            for (int i = 0; i < width; ++i) v[i] = std::sqrt(v[i]);
        for (uint32_t k = last + 1; k <= last + replayed; ++k) {
            power1 *= beta1, power2 *= beta2, faded1 *= beta1, faded2 *= beta2;
            const Real rate = Real(tick.rates[k] * faded1 / (1 - power1)), by = Real(std::sqrt(faded2 / (1 - power2)));
            const Real keep = Real(1 - tick.rates[k] * shrinkage.decay);
            for (int i = 0; i < width; ++i) w[i] = keep * w[i] - rate * m[i] / (v[i] * by + eps);
            if (shrinkage.group_lasso > 0) shrinkage.lasso(w, width, tick.rates[k] * shrinkage.group_lasso);
        }
        if (replayed)
            for (int i = 0; i < width; ++i) v[i] *= v[i];
        scale(m, width, missed > replayed_steps ? 0.0 : std::pow(beta1, missed));
        scale(v, width, std::pow(beta2, missed));
        shrinkage.pay(w, width, last + replayed, tick);
    }
};

// State: z, n.
struct Ftrl {
    static constexpr bool starts_at_zero = true;
    double alpha, beta, l1, l2;
    int state_width(int width) const { return 2 * width; }

    template <class Real>
    void move(Real* __restrict w, const Real* __restrict g, Real* __restrict s, int width, uint32_t,
              const Tick& tick) const {
        const Real weight = Real(tick.rate / alpha), curve = Real(1 / alpha), least = Real(beta);
        const Real lasso = Real(l1), ridge = Real(l2);
        Real* __restrict z = s;
        Real* __restrict n = s + width;
        for (int i = 0; i < width; ++i) {
            const Real sum = finite(n[i] + g[i] * g[i]), root = std::sqrt(sum);
            z[i] += weight * g[i] - (root - std::sqrt(n[i])) * curve * w[i];
            n[i] = sum;
            const Real excess = std::abs(z[i]) - lasso;
            const Real moved = -std::copysign(excess, z[i]) / ((least + root) * curve + ridge);
            w[i] = excess > 0 ? moved : Real(0);
        }
    }
};

// A rule with its share of what all rules do. `last` is the step that the row is up to date through.
template <class Rule> struct RowRule {
    Rule rule;
    Shrinkage shrinkage;

    int state_width(int width) const { return rule.state_width(width); }

    // Whether rows that were away owe anything.
    bool catches_up() const {
        if constexpr (requires { Rule::moves_when_away; }) return true;
        return shrinkage.decay > 0 || shrinkage.group_lasso > 0;
    }

    static constexpr bool starts_at_zero() {
        return requires { Rule::starts_at_zero; };
    }

    // To be called before the first row of each step.
    void begin(const Tick& tick) {
        if constexpr (requires { rule.begin(tick); }) rule.begin(tick);
    }

    template <class Real>
    void update(Real* w, const Real* g, Real* s, int width, uint32_t last, const Tick& tick) const {
        if (shrinkage.decay > 0) scale(w, width, 1.0 - tick.rate * shrinkage.decay);
        rule.move(w, g, s, width, last, tick);
        if (shrinkage.group_lasso > 0) shrinkage.lasso(w, width, tick.rate * shrinkage.group_lasso);
    }

    template <class Real> void refresh(Real* w, Real* s, int width, uint32_t last, const Tick& tick) const {
        if (last >= tick.step) return;
        if constexpr (requires { &Rule::template catch_up<Real>; }) {
            rule.catch_up(w, s, width, last, tick, shrinkage);
        } else {
            shrinkage.pay(w, width, last, tick);
        }
    }
};

}  // namespace rankwell
