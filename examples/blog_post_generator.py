"""Research a topic, write a blog post about it, and never pay for the same post twice.

    python blog_post_generator.py "Context managers"

The second call finds the post in the session, from any process, and calls nobody. Without HOLDFAST_MODEL the built-in
offline model writes; `HOLDFAST_MODEL=openai:...` puts a real one behind the same code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from pydantic import BaseModel

from holdfast import Agent, RunEvent, RunResponse, SqlWorkflowStorage, Workflow, pprint_run_response
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
    """Write a blog post about a topic from sources, or find the one that the session holds already."""

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

    def run(self, topic: str, use_cache: bool = True) -> Iterator[RunResponse]:
        """Write a blog post, or return the stored one.

        Args:
            topic: what to write about.
            use_cache: return the stored post about this topic if there is one.
        """
        if use_cache:
            for cached in self.session_state.get("blog_posts", []):
                if cached["topic"] == topic:
                    yield RunResponse(event=RunEvent.workflow_completed, content=cached["blog_post"])
                    return

        yield RunResponse(event=RunEvent.step_started, data={"step": "search"})
        found: SearchResults = self.searcher.run(topic).content
        yield RunResponse(event=RunEvent.step_completed, data={"step": "search", "sources": len(found.articles)})
        if not found.articles:
            # Nothing is kept, so that the next call searches again.
            yield RunResponse(content=f"Nothing was found about {topic!r}, so no post was written.")
            return

        yield from self.writer.run(json.dumps({"topic": topic, **found.model_dump()}), stream=True)

        if "blog_posts" not in self.session_state:
            self.session_state["blog_posts"] = []
        self.session_state["blog_posts"].append({"topic": topic, "blog_post": self.writer.run_response.content})


if __name__ == "__main__":
    generator = BlogPostGenerator(
        session_id="my-session-id",
        storage=SqlWorkflowStorage(table_name="generate_blog_post_workflows", db_file="tmp/workflows.db"),
    )
    topic = " ".join(sys.argv[1:]) or "Context managers and the with statement"
    pprint_run_response(generator.run(topic=topic), markdown=True)
