"""Changes of stored data from one version of Arrow to the next, run by `scripts/migrate`.

There is none yet: every document is at `schema_version` 1.

A migration is needed when the code of a new version cannot read what the old one stored, or reads it wrongly. Then:

1. Raise the default of `schema_version` in the document's class. (If the old rows are still read rightly, that is all:
   the number alone keeps an older Arrow away from rows that it would damage.)
2. Add a file here, named by time and purpose, e.g. `20270105_1200_alert_price_text.py`. The names' order is the order
   they run in; never rename or change one that was released.
3. Write it with Beanie's decorators, forward and, if it can be undone, backward:

       from typing import Any

       from beanie import Document
       from beanie.migrations.controllers.free_fall import free_fall_migration
       from pymongo.asynchronous.client_session import AsyncClientSession

       from app.core.migrations import convert


       class Alert(Document):
           class Settings:
               name = "alerts"


       def price_as_text(row: dict[str, Any]) -> dict[str, Any]:
           return row | {"price": str(row["price"])}


       class Forward:
           @free_fall_migration(document_models=[Alert])
           async def change(self, session: AsyncClientSession) -> None:
               await convert(Alert, session, old=1, new=2, change=price_as_text)


       class Backward:
           ...

   The functions of a class run in the order they are written. `class Backward: pass` says that there is nothing to
   undo; without the class the migration cannot be reversed.

What holds for all of them:

- No transaction is around it, since not every database has them. So it must be possible to run it again after it was
  killed half-way: choose rows by their `schema_version` and raise that with the change, as `convert` does.
- It imports nothing of a feature: the classes there go on changing, the migration does not.
- Beanie's own `@iterative_migration` works but is not for collections that grow: it holds the whole collection in
  memory, cannot be run again after half of it, and takes quadratic time on the embedded database (45 s for 4,000
  rows, where `convert` takes two).
- Beanie's command `beanie migrate` is not used: between two writes it forgets where it was, and starts from the first
  migration when it does not know the current one.
"""
