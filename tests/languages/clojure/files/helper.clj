(ns helper)
(defn from [] "from helper")
