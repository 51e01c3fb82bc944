(require '[helper :refer [from]])
(println (from))
