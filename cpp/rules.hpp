// Rules that move one row: the compiled twins of the classes in src/rankwell/tables, which hold the formulas, the
// sources, and the reference that these are tested against.
//
// A rule is a struct with its settings and
//   int state_width(int width) const;
//   template <class Real> void move(Real* w, const Real* g, Real* s, int width, uint32_t last, const Tick&) const;
// and, where rows that were away owe more than decay and lasso,
//   template <class Real> void catch_up(Real* w, Real* s, int width, uint32_t last, const Tick&) const;
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace rankwell {

// What a rule knows of time: a view of tables/clock.py. rates[k], rate_sums[k] and log_shrinks[k] are those of step k.
struct Tick {
    uint32_t step;
    double rate;
    const double* rates;
    const double* rate_sums;
    const double* log_shrinks;
};

// What all rules share.
struct Shrinkage {
    double decay = 0;
    double group_lasso = 0;

    template <class Real> void lasso(Real* w, int width, double strength) const {
        double square = 0;
        for (int i = 0; i < width; ++i) square += double(w[i]) * double(w[i]);
        const double norm = std::sqrt(square), threshold = strength * std::sqrt(double(width));
        const Real factor = norm > threshold ? Real(1.0 - threshold / norm) : Real(0);
        for (int i = 0; i < width; ++i) w[i] *= factor;
    }
};

struct AdaGrad {
    double epsilon;
    int state_width(int width) const { return width; }

    template <class Real> void move(Real* w, const Real* g, Real* s, int width, uint32_t, const Tick& tick) const {
        const Real rate = Real(tick.rate), eps = Real(epsilon);
        for (int i = 0; i < width; ++i) {
            s[i] += g[i] * g[i];
            w[i] -= rate * g[i] / (std::sqrt(s[i]) + eps);
        }
    }
};

struct RowWiseAdaGrad {
    double epsilon;
    int state_width(int) const { return 1; }

    template <class Real> void move(Real* w, const Real* g, Real* s, int width, uint32_t, const Tick& tick) const {
        double total = 0;
        for (int i = 0; i < width; ++i) total += double(g[i]) * double(g[i]);
        s[0] += Real(total / width);
        const Real rate = Real(tick.rate / (std::sqrt(double(s[0])) + epsilon));
        for (int i = 0; i < width; ++i) w[i] -= rate * g[i];
    }
};

// A rule with its share of what all rules do. `last` is the step that the row is up to date through.
template <class Rule> struct RowRule {
    Rule rule;
    Shrinkage shrinkage;

    bool catches_up() const {
        if constexpr (requires { &Rule::template catch_up<float>; }) return true;
        return shrinkage.decay > 0 || shrinkage.group_lasso > 0;
    }

    template <class Real>
    void update(Real* w, const Real* g, Real* s, int width, uint32_t last, const Tick& tick) const {
        if (shrinkage.decay > 0) {
            const Real keep = Real(1.0 - tick.rate * shrinkage.decay);
            for (int i = 0; i < width; ++i) w[i] *= keep;
        }
        rule.move(w, g, s, width, last, tick);
        if (shrinkage.group_lasso > 0) shrinkage.lasso(w, width, tick.rate * shrinkage.group_lasso);
    }

    template <class Real> void refresh(Real* w, Real* s, int width, uint32_t last, const Tick& tick) const {
        if (last >= tick.step) return;
        if constexpr (requires { &Rule::template catch_up<Real>; }) {
            rule.catch_up(w, s, width, last, tick, shrinkage);
        } else if (shrinkage.decay > 0) {
            const Real factor = Real(std::exp(tick.log_shrinks[tick.step] - tick.log_shrinks[last]));
            for (int i = 0; i < width; ++i) w[i] *= factor;
        }
        if (shrinkage.group_lasso > 0)
            shrinkage.lasso(w, width, (tick.rate_sums[tick.step] - tick.rate_sums[last]) * shrinkage.group_lasso);
    }
};

}  // namespace rankwell
