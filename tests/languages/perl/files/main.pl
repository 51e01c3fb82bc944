use lib ".";
use helper;

print helper::greeting(), "\n";
