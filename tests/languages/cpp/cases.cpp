#include <bits/stdc++.h>
#include <boost/algorithm/string.hpp>

int main(int count, char **words) {
    const std::string name = words[1];
    const std::vector<std::string> rest(words + 2, words + count);
    if (name == "echo") {
        std::cout << std::cin.rdbuf();
    } else if (name == "args") {
        for (const auto &arg : rest) std::cout << "[" << arg << "]\n";
    } else if (name == "exit") {
        return 3;
    } else if (name == "stderr") {
        std::cout << boost::algorithm::to_lower_copy(std::string("TO STDOUT\n"));
        std::cerr << "to stderr\n";
    } else if (name == "unicode") {
        std::cout << "žluťoučký 你好 🦀\n";
    } else if (name == "output") {
        for (int n = 0; n < 10000; n++) std::cout << std::string(99, 'x') << "\n";
    } else if (name == "uncaught") {
        throw std::runtime_error("corpus failure");
    } else if (name == "memory") {
        for (std::vector<std::string> hoard;;) hoard.emplace_back(1 << 20, 'x');
    } else if (name == "loop") {
        for (;;) __asm__ volatile("");
    } else if (name == "threads") {
        std::array<long, 4> sums{};
        {
            std::vector<std::jthread> threads;
            for (auto &sum : sums) threads.emplace_back([&sum] { for (int n : std::views::iota(1, 1001)) sum += n; });
        }
        std::cout << std::accumulate(sums.begin(), sums.end(), 0L) << "\n";
    } else if (name == "missing") {
        std::cout << (std::ifstream("absent.txt") ? "there" : "missing") << "\n";
    } else if (name == "workdir") {
        std::ofstream("out.txt") << "written\n";
        std::cout << std::ifstream("out.txt").rdbuf();
    }
}
