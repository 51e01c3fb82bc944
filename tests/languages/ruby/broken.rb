puts "unreached" if (
