module Helper (greeting) where

greeting :: String
greeting = "from helper"
