"""The terminal dashboard: what an appliance does, drawn and driven from a terminal. It knows the appliance by
its API alone, through `mdslite.client`.
"""
