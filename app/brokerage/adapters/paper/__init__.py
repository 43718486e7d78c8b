"""The paper broker: orders filled against real prices, with invented money.

What it models, and how (all of it stated here, so that nobody takes it for more than it is):

- *Prices*: an order meets the newest live price, else a quote, delayed perhaps. A price from before today's opening
  fills nothing. Market orders, and limit orders that arrive where they can be filled at once, pay slippage; a limit
  order that waits is filled at its limit.
- *Volume*: an arriving order finds a share of what is usually traded in a minute of that day; what is left takes a
  share of what is traded from then on. Where no volume is known (quotes), orders are filled whole.
- *Funds*: delivery and bought options are paid in full, MTF by half; intraday shares and futures hold a fifth of their
  value, sold options a fifth of strike × quantity. Losses that are open reduce what is available, gains do not add.
- *The day*: intraday positions are closed ten minutes before the end of the session (15:20), day orders expire with it,
  contracts are settled at their last price on their last day.
- *Charges*: those of a contract note of the day, by `core.charges`; what is bought and sold for delivery on one day is
  charged as intraday.
- *Profit*: first in, first out, as the portfolio reckons it from the same trades: what an account has here is what its
  dashboard says, to the paisa. Brokers tell profit by average prices, and so differ from the dashboard while a part of
  a position is open. Shares for delivery may be bought on one exchange and sold on the other.

One document holds an account's money, positions and open orders, and is replaced whole, conditionally on the revision
that was read. So every change is atomic without transactions, whichever process makes it and whenever it is killed.
"""
