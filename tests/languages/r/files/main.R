source("helper.R")

cat(greeting(), "\n", sep = "")
