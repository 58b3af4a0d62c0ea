"""A harness that asks in the process of `vf-eval`: those of verifiers start a program that fetches packages."""

from __future__ import annotations

from typing import Any

import verifiers.v1 as vf
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from verifiers.v1.dialects.chat import message_to_wire

__all__ = ["AsksHere"]


class AsksHere(vf.Harness[vf.HarnessConfig]):
    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(  # noqa: PLR0917 - verifiers calls it so
        self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str, mcp_urls: Any, data: Any
    ) -> vf.ProgramResult:
        system, prompt = self.resolve_prompt(data)
        messages = [*([vf.SystemMessage(content=system)] if system else []), *prompt]
        client = DefaultAsyncHttpxClient(trust_env=False)
        async with AsyncOpenAI(base_url=endpoint, api_key=secret, http_client=client) as model:
            await model.chat.completions.create(model=ctx.model, messages=list(map(message_to_wire, messages)))
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")
