import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.optimize import brentq

frame = pd.DataFrame({"x": np.linspace(0, 6, 200)})
frame["y"] = np.sin(frame.x)
figure, axes = plt.subplots()
axes.plot(frame.x, frame.y)
axes.axvline(brentq(np.sin, 2, 4))
axes.set_title("sine")
figure.savefig("plot.png")
print("packages")
