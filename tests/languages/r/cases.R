words <- commandArgs(trailingOnly = TRUE)
rest <- words[-1]
switch(words[1],
  echo = writeLines(readLines(file("stdin"))),
  args = for (arg in rest) cat("[", arg, "]\n", sep = ""),
  exit = quit(status = 3),
  stderr = {
    cat("to stdout\n")
    cat("to stderr\n", file = stderr())
  },
  unicode = cat("žluťoučký 你好 🦀\n"),
  output = for (n in 1:10000) cat(strrep("x", 99), "\n", sep = ""),
  uncaught = stop("corpus failure"),
  memory = {
    hoard <- list()
    repeat hoard[[length(hoard) + 1]] <- numeric(131072) + 1
  },
  loop = repeat {},
  threads = cat(sum(unlist(parallel::mclapply(1:4, function(index) sum(1:1000), mc.cores = 4))), "\n", sep = ""),
  missing = tryCatch(readLines("absent.txt"), error = function(e) cat("missing\n"), warning = function(w) cat("missing\n")),
  workdir = {
    writeLines("written", "out.txt")
    cat(readLines("out.txt"), "\n", sep = "")
  }
)
