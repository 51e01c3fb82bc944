#include <iostream>
#include "helper.hpp"

int main() { std::cout << greeting() << "\n"; }
