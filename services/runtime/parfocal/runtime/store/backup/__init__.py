"""Back-up and restore of the store: snapshots of a store in use, as folders of ordinary files.

```
python -m parfocal.runtime.store.backup save FOLDER        makes FOLDER/<time>/
python -m parfocal.runtime.store.backup check SNAPSHOT
python -m parfocal.runtime.store.backup restore SNAPSHOT   into a store whose buckets are empty

<time>/<bucket>/<key>      one file for each object
      /snapshot.json       written last: size, ETag and SHA-256 of each of them
```

Services go on meanwhile, and what a snapshot holds is whole nevertheless. That follows from the order. Records change,
but what they name was published before they named it, is never changed, and stays for the days of the trash after its
deletion. So what names others is copied first: jobs, verdicts, manifests of results, of models, of datasets. Files come
last, when every file that a copied manifest lists has long been there. A restore writes in the opposite order, so that
services that run already take up nothing before it is whole.

A file that is the same as in the snapshot before is a hard link to it, so a snapshot costs what is new, and each one is
complete by itself: old ones are removed with `rm -r`, in any order.
"""
