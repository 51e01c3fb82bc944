print("unreached"
