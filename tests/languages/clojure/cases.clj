(ns cases (:import [java.util ArrayList]))

(def cases
  {"echo" #(do (print (slurp *in*)) (flush))
   "args" #(doseq [word (rest *command-line-args*)] (println (str "[" word "]")))
   "exit" #(System/exit 3)
   "stderr" #(do (println "to stdout") (binding [*out* *err*] (println "to stderr")))
   "unicode" #(println "žluťoučký 你好 🦀")
   "output" #(dotimes [_ 10000] (println (apply str (repeat 99 "x"))))
   "uncaught" #(throw (ex-info "corpus failure" {}))
   "memory" #(let [hoard (ArrayList.)] (while true (.add hoard (byte-array 1048576))))
   "loop" #(while true)
   "threads" #(let [sums (doall (repeatedly 4 (fn [] (future (reduce + (range 1 1001))))))]
                (println (reduce + (map deref sums)))
                (shutdown-agents))
   "missing" #(try (slurp "absent.txt") (catch java.io.FileNotFoundException _ (println "missing")))
   "workdir" #(do (spit "out.txt" "written") (println (slurp "out.txt")))})

((cases (first *command-line-args*)))
