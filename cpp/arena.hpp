// Blocks of memory for what grows by being laid out anew: from one reserved range in huge pages, so that a look-up does
// not also miss the table of pages. A block given back is kept for the next of its size; its pages go to the system.
#pragma once

#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "slab.hpp"

namespace rankwell {

class Arena {
   public:
    // `bytes` is a multiple of 64, and so is the address.
    char* take(size_t bytes) {
        const std::lock_guard lock(lock_);
        bytes = rounded(bytes);
        std::vector<char*>& free = free_[bytes];
        if (!free.empty()) {
            char* block = free.back();
            free.pop_back();
            return block;
        }
        if (used_ + bytes > slab_.reserved()) throw std::bad_alloc();
        used_ += bytes;
        return slab_.data() + used_ - bytes;
    }

    void give_back(char* block, size_t bytes) {
        const std::lock_guard lock(lock_);
        bytes = rounded(bytes);
        free_[bytes].push_back(block);
        if (bytes < few_pages) return;
        const size_t skip = (page - size_t(block - slab_.data()) % page) % page;
        madvise(block + skip, (bytes - skip) / page * page, MADV_DONTNEED);
    }

    bool take_ahead() { return slab_.take_ahead(used_); }  // see Slab

   private:
    static constexpr size_t page = 4096, few_pages = 4 * page;

    static size_t rounded(size_t bytes) { return bytes < few_pages ? bytes : (bytes + page - 1) / page * page; }

    std::mutex lock_;
    std::map<size_t, std::vector<char*>> free_;
    Slab slab_{size_t(1) << 36, true};
    size_t used_ = 0;
};

}  // namespace rankwell
