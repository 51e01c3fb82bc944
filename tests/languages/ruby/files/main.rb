require_relative "helper"

puts greeting
