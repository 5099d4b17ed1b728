"""Vectors and soft prompts found by gradient through the frozen model."""

from embedspace.distillation.instruction_vector import distill_instruction, instructed
from embedspace.distillation.measured_fidelity import Fidelity, QuestionFidelity, divergences, fidelity
from embedspace.distillation.optimised_vector import optimise
from embedspace.distillation.placement import full_conversation, student_conversation
from embedspace.distillation.questions import general_questions
from embedspace.distillation.settings import Distillation, Optimisation
from embedspace.distillation.soft_prompt import SoftPrompt
from embedspace.distillation.soft_rows import messages_content, start_rows

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
