#include <boost/algorithm/string.hpp>
#include <boost/multiprecision/cpp_int.hpp>
#include <iostream>

int main() {
    boost::multiprecision::cpp_int factorial = 1;
    for (int n = 1; n <= 30; ++n) factorial *= n;
    std::string text = factorial.str() == "265252859812191058636308480000000" ? "PACKAGES" : "WRONG";
    boost::to_lower(text);
    std::cout << text << '\n';
}
