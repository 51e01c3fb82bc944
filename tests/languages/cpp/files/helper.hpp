#include <string>

inline std::string greeting() { return "from helper"; }
