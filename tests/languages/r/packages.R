recommended <- c("boot", "class", "cluster", "codetools", "foreign", "KernSmooth", "lattice", "MASS", "Matrix", "mgcv",
                 "nlme", "nnet", "rpart", "spatial", "survival")
for (name in recommended) suppressPackageStartupMessages(library(name, character.only = TRUE))
png("plot.png")
plot(mtcars$wt, mtcars$mpg, main = "weight")
invisible(dev.off())
cat("packages\n")
