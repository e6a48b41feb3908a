"""Research a topic, write a blog post about it, and never pay for the same post twice.

    python blog_post_generator.py "Context managers"

The search and the post are steps of session scope: the second call is answered with what the first one paid for, from
any process, and calls nobody; an edit of the instructions or of the code writes anew. Without HOLDFAST_MODEL the
built-in offline model writes; `HOLDFAST_MODEL=openai:...` puts a real one behind the same code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from pydantic import BaseModel

from holdfast import Agent, RunEvent, RunResponse, SqlWorkflowStorage, Workflow, pprint_run_response, step
from holdfast.library import Library


class NewsArticle(BaseModel):
    """One source for a post."""

    title: str
    url: str
    summary: str


class SearchResults(BaseModel):
    """What the searcher found."""

    articles: list[NewsArticle]


class BlogPostGenerator(Workflow):
    """Write a blog post about a topic from sources, or hand out again the one that was written already."""

    description = "Researches a topic in a library of documents and writes a blog post about it."

    searcher = Agent(
        instructions="Search for the topic and return the sources that fit it best.",
        tools=[Library.from_pydoc_topics().search],
        output_type=SearchResults,
    )
    writer = Agent(
        instructions=[
            "Write a blog post in Markdown about the topic, from the articles you are given and nothing else.",
            "Give it a title, sections with headings, takeaways, and the list of sources with their addresses.",
        ],
    )

    @step(cache="session", store_if=lambda found: found.articles)
    def search(self, topic: str) -> SearchResults:
        """Find sources; finding none is not kept, so that the next call searches again."""
        found: SearchResults = self.searcher.run(topic).content
        return found

    @step(cache="session")
    def write(self, topic: str, found: SearchResults) -> Iterator[RunResponse]:
        """Write the post, piece by piece."""
        yield from self.writer.run(json.dumps({"topic": topic, **found.model_dump()}), stream=True)

    def run(self, topic: str) -> Iterator[RunResponse]:
        """Write a blog post, or hand out again the one that was written.

        Args:
            topic: what to write about.
        """
        yield RunResponse(event=RunEvent.step_started, data={"step": "search"})
        found = self.search(topic)
        yield RunResponse(event=RunEvent.step_completed, data={"step": "search", "sources": len(found.articles)})
        if not found.articles:
            yield RunResponse(content=f"Nothing was found about {topic!r}, so no post was written.")
            return
        yield from self.write(topic, found)
        self.session_state.setdefault("blog_posts", {})[topic] = self.writer.run_response.content


if __name__ == "__main__":
    generator = BlogPostGenerator(
        session_id="my-session-id",
        storage=SqlWorkflowStorage(table_name="generate_blog_post_workflows", db_file="tmp/workflows.db"),
    )
    topic = " ".join(sys.argv[1:]) or "Context managers and the with statement"
    pprint_run_response(generator.run(topic=topic), markdown=True)
