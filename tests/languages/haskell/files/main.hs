module Main (main) where

import Helper

main :: IO ()
main = putStrLn greeting
