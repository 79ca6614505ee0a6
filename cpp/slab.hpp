// Memory that grows without moving: addresses are reserved at once, pages are taken when first touched. Anonymous, or
// a file that may be larger than memory, of which a bounded share is kept resident.
#pragma once

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <stdexcept>
#include <string>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace rankwell {

// What went wrong with memory or a file; Python makes a TrainingError of it.
struct StorageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Slab {
   public:
    // Reserves `most` bytes of addresses, or as many as there are; huge pages where memory is used densely.
    explicit Slab(size_t most, bool huge) {
        reserve(most, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
        if (huge) madvise(data_, reserved_, MADV_HUGEPAGE);
        usable_ = reserved_;
    }

    // A file of this process alone, emptied; `resident` bounds the bytes of it that are kept in memory, 0 for no bound.
    Slab(size_t most, const std::string& path, size_t resident) : path_(path), resident_(resident) {
        file_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (file_ < 0) throw StorageError("cannot open " + path + ": " + std::strerror(errno));
        if (flock(file_, LOCK_EX | LOCK_NB) != 0) {
            close(file_);
            throw StorageError(path + " is in use by another table");
        }
        if (ftruncate(file_, 0) != 0) fail("cannot empty");
        reserve(most, MAP_SHARED | MAP_NORESERVE, file_);
        madvise(data_, reserved_, MADV_RANDOM);  // rows are met in no order
    }
    Slab(const Slab&) = delete;
    Slab& operator=(const Slab&) = delete;
    ~Slab() {
        if (data_ != nullptr) munmap(data_, reserved_);
        if (file_ < 0) return;
        if (getpid() == owner_ && ftruncate(file_, 0) != 0) { /* a scratch file: nothing to save */ }
        close(file_);
    }

    char* data() const { return data_; }
    bool in_file() const { return file_ >= 0; }
    size_t reserved() const { return reserved_; }

    // Makes the first `bytes` usable. A full disk is met here, where nothing is lost, and not at a row's first write.
    void grow_to(size_t bytes) {
        if (bytes <= usable_) return;
        if (bytes > reserved_) throw StorageError("no addresses are left for more rows");
        const size_t target = std::min(reserved_, (bytes + step - 1) / step * step);
        const int error = posix_fallocate(file_, off_t(usable_), off_t(target - usable_));
        if (error != 0) throw StorageError("cannot grow " + path_ + ": " + std::strerror(error));
        usable_ = target;
        touched_.resize(usable_ / page / 64 + 1, 0);
    }

    // Takes the next huge page before it is needed, if what is used comes near it: taking one may last milliseconds, and
    // several at once would be a pause. Small slabs do without. Returns whether it took one.
    bool take_ahead(size_t used) {
        if (file_ >= 0 || used < enough || populated_ >= used + huge || populated_ + huge > reserved_) return false;
        populated_ = std::max(populated_, used / huge * huge);
        if (madvise(data_ + populated_, huge, populate) != 0) populated_ = reserved_;  // an old kernel: never mind
        else populated_ += huge;
        return true;
    }

    // Notes that a span is about to be touched; asks for pages that may be on disk alone ahead of time, all at once.
    // `touch` must follow before the span is read.
    void about_to_touch(size_t offset, size_t bytes, bool is_new) {
        for (size_t p = offset / page; p <= (offset + bytes - 1) / page; ++p) {
            uint64_t& word = touched_[p / 64];
            const uint64_t bit = uint64_t(1) << (p % 64);
            if (word & bit) continue;
            word |= bit;
            ++num_touched_;
            if (is_new) continue;
            posix_fadvise(file_, off_t(p * page), off_t(page), POSIX_FADV_WILLNEED);
            asked_.push_back(p);
        }
    }

    // Takes the pages asked for, as if to write: a page that is first read brings its neighbours along, which nobody
    // counts, and is then met a second time when it is written.
    void touch() {
        for (const size_t p : asked_) __atomic_fetch_or(data_ + p * page, 0, __ATOMIC_RELAXED);
        asked_.clear();
    }

    // Gives pages back, round and round the file, until at most three quarters of the bound are resident. Changed pages
    // stay in the system's cache, from which it writes them out.
    void keep_bound() {
        if (resident_ == 0 || num_touched_ * page <= resident_) return;
        const size_t span = size_t(4) << 20;
        while (num_touched_ * page > resident_ / 4 * 3) {
            if (hand_ >= usable_) hand_ = 0;
            const size_t end = std::min(hand_ + span, usable_);
            size_t found = 0;
            for (size_t w = hand_ / page / 64; w < (end / page + 63) / 64; ++w) {
                found += size_t(__builtin_popcountll(touched_[w]));
                touched_[w] = 0;
            }
            if (found > 0) madvise(data_ + hand_, end - hand_, MADV_DONTNEED);
            num_touched_ -= found;
            hand_ = end;
        }
    }

    size_t num_resident() const { return num_touched_ * page; }

   private:
    static constexpr size_t step = size_t(64) << 20;
    static constexpr size_t page = 4096, huge = size_t(2) << 20, enough = size_t(16) << 20;
    static constexpr int populate = 23;  // MADV_POPULATE_WRITE of Linux 5.14, which older headers lack

    void reserve(size_t most, int flags, int file) {
        for (reserved_ = (most + step - 1) / step * step;; reserved_ = (reserved_ / 2 + step - 1) / step * step) {
            void* at = mmap(nullptr, reserved_, PROT_READ | PROT_WRITE, flags, file, 0);
            if (at != MAP_FAILED) {
                data_ = static_cast<char*>(at);
                return;
            }
            if (reserved_ <= step) fail("no memory can be mapped for");
        }
    }
    [[noreturn]] void fail(const std::string& what) {
        const std::string message = what + " " + (path_.empty() ? "rows" : path_) + ": " + std::strerror(errno);
        if (file_ >= 0) close(file_);
        throw StorageError(message);
    }

    std::string path_;
    int file_ = -1;
    pid_t owner_ = getpid();  // a forked child must not empty its parent's file
    char* data_ = nullptr;
    size_t reserved_ = 0, usable_ = 0, resident_ = 0, num_touched_ = 0, hand_ = 0, populated_ = 0;
    std::vector<size_t> asked_;
    std::vector<uint64_t> touched_;  // a bit a page, of those touched since they were last given back
};

}  // namespace rankwell
