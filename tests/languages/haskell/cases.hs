module Main (main) where

import Control.Concurrent
import Control.Exception
import Control.Monad
import qualified Data.ByteString as Bytes
import System.Environment
import System.Exit
import System.IO
import System.IO.Error

main :: IO ()
main = do
  name : rest <- getArgs
  case name of
    "echo" -> Bytes.interact id
    "args" -> forM_ rest $ \arg -> putStrLn ("[" ++ arg ++ "]")
    "exit" -> exitWith (ExitFailure 3)
    "stderr" -> putStrLn "to stdout" >> hPutStrLn stderr "to stderr"
    "unicode" -> putStrLn "žluťoučký 你好 🦀"
    "output" -> replicateM_ 10000 (putStrLn (replicate 99 'x'))
    "uncaught" -> error "corpus failure"
    "memory" -> hoard []
    "loop" -> spin 0
    "threads" -> do
      sums <- forM [1 .. 4 :: Int] $ \_ -> do
        result <- newEmptyMVar
        _ <- forkIO (putMVar result $! sum [1 .. 1000 :: Int])
        return result
      mapM takeMVar sums >>= print . sum
    "missing" -> do
      found <- try (readFile "absent.txt")
      case found of
        Left problem | isDoesNotExistError problem -> putStrLn "missing"
        _ -> putStrLn "there"
    "workdir" -> writeFile "out.txt" "written" >> readFile "out.txt" >>= putStrLn
    _ -> exitFailure

hoard :: [Bytes.ByteString] -> IO ()
hoard list = do
  let block = Bytes.replicate 1048576 (fromIntegral (length list))
  _ <- evaluate block
  hoard (block : list)

spin :: Integer -> IO ()
spin n = evaluate (n + 1) >>= spin
