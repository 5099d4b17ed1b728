"""Vectors and soft prompts found by gradient through the frozen model."""

from embedspace.distillation.distilling import messages_content, start_rows
from embedspace.distillation.instructions import distill_instruction, instructed
from embedspace.distillation.measured_fidelity import Fidelity, QuestionFidelity, divergences, fidelity
from embedspace.distillation.optimisation import optimise
from embedspace.distillation.placement import full_conversation, student_conversation
from embedspace.distillation.questions import general_questions
from embedspace.distillation.settings import Distillation, Optimisation
from embedspace.distillation.soft_prompt import SoftPrompt

__all__ = [
    "Distillation",
    "Fidelity",
    "Optimisation",
    "QuestionFidelity",
    "SoftPrompt",
    "distill_instruction",
    "divergences",
    "fidelity",
    "full_conversation",
    "general_questions",
    "instructed",
    "messages_content",
    "optimise",
    "start_rows",
    "student_conversation",
]
