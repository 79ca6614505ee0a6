// A few threads that wait between batches. Work is dealt out beforehand, so that what a thread does never depends on
// which of them is faster.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unistd.h>
#include <vector>

namespace rankwell {

class Threads {
   public:
    explicit Threads(int count) : owner_(getpid()) {
        for (int t = 1; t < count; ++t) {
            slots_.push_back(std::make_unique<Slot>());
            Slot& slot = *slots_.back();  // the vector itself still grows
            slot.thread = std::thread([this, t, &slot] { serve(t, slot); });
        }
    }
    ~Threads() {
        for (auto& slot : slots_) {
            if (!is_ours()) {  // a forked child has the objects but not the threads: they can be neither joined nor left
                slot.release();  // NOLINT: so they stay
                continue;
            }
            slot->state.store(stopping);
            slot->state.notify_one();
            slot->thread.join();
        }
    }

    int count() const { return int(slots_.size()) + 1; }
    bool is_ours() const { return getpid() == owner_; }

    // Runs work(t) for t in 0 … count - 1, one on each thread; rethrows the first error after all have ended.
    void run(const std::function<void(int)>& work) {
        work_ = &work;
        for (auto& slot : slots_) {
            slot->error = nullptr;
            slot->state.store(working, std::memory_order_release);
            slot->state.notify_one();
        }
        std::exception_ptr error;
        try {
            work(0);
        } catch (...) {
            error = std::current_exception();
        }
        for (auto& slot : slots_) {
            for (int spin = 0; slot->state.load(std::memory_order_acquire) == working; ++spin) {
                if (spin >= spins) std::this_thread::yield();
            }
            if (slot->error && !error) error = slot->error;
        }
        if (error) std::rethrow_exception(error);
    }

   private:
    enum : uint32_t { idle, working, stopping };
    // Some 10 µs: phases of one step follow each other faster than a wake-up. Not longer, and without the processor's
    // `pause`: on virtual machines either has the host take the core away, which costs more than is saved.
    static constexpr int spins = 20000;
    struct Slot {
        std::atomic<uint32_t> state{idle};
        std::exception_ptr error;
        std::thread thread;
    };

    void serve(int t, Slot& slot) {
        for (;;) {
            for (int spin = 0; spin < spins && slot.state.load(std::memory_order_acquire) == idle;) ++spin;
            slot.state.wait(idle, std::memory_order_acquire);
            if (slot.state.load(std::memory_order_acquire) == stopping) return;
            try {
                (*work_)(t);
            } catch (...) {
                slot.error = std::current_exception();
            }
            slot.state.store(idle, std::memory_order_release);
        }
    }

    pid_t owner_;
    const std::function<void(int)>* work_ = nullptr;
    std::vector<std::unique_ptr<Slot>> slots_;
};

}  // namespace rankwell
