defmodule Helper do
  def greeting, do: "from helper"
end
