"""Races fastopt against what a user would pick instead: ``python -m bench.peers --help``.

workloads   what is raced: shapes, rules, start values
contenders  who races: one class per peer
worker      a contender in a process of its own, driven over a pipe
race        rounds, alternation, checks of the answers
footprint   import time and memory
results     what was measured, its statistics, JSON
targets     the bars to reach
report      table and pictures
"""
