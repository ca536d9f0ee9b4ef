"""The store: which images a collection holds, and which of them are nearest to a query.

In: rows with embeddings and regions, from one writer; query embeddings, from any number of readers. Out: positions,
rows, similarities. Knows files, not models: `retrieval` decides what an embedding means and where it comes from."""
