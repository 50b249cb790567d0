"""Additions to the docstrings on the API's pages: formulas, types, a summary, levels of the gym."""

import ast
import copy
import functools
import importlib
import inspect
from collections import defaultdict

from docutils import nodes
from extensions.formulas import with_formulas
from sphinx import addnodes

from tinyres.study.gym import LEVELS

KINDS = {"class": "Class", "exception": "Error", "function": "Function", "data": "Data"}


def setup(app):
    app.connect("autodoc-process-docstring", set_formulas, priority=400)  # before napoleon, which rewrites the lines
    app.connect("autodoc-process-docstring", point_to_the_gym, priority=600)  # after napoleon
    app.connect("autodoc-process-signature", write_types)
    app.connect("doctree-read", mark_types, priority=300)  # needs the documented names
    app.connect("doctree-read", find_sources, priority=400)  # changes them, for viewcode
    app.connect("missing-reference", find_type)
    app.connect("doctree-read", summarise)
    return {"parallel_read_safe": True}


# ---------------------------------------------------------------- formulas
def set_formulas(app, what, name, obj, options, lines):
    """Indented paragraphs of a docstring's text are formulas; code stands after ``::``."""
    if (getattr(obj, "__module__", None) or name).startswith("tinyres"):  # not names that a module imports
        lines[:] = with_formulas(lines)


# ---------------------------------------------------------------- types
def write_types(app, what, name, obj, options, signature, result):
    """Signatures as in the source: `Array`, where the interpreter shows ``numpy.ndarray[Any, ...]``."""
    return as_written(obj) if what in {"class", "exception", "function", "method"} else None


def as_written(obj):
    """Parameters and result of a function, class or property, from its source; None if there is no source.

    Examples
    --------
    >>> from tinyres import ops
    >>> as_written(ops.concat)
    ('(tensors: Sequence[Tensor], axis: int=0)', 'Tensor')
    """
    getter = _getter(obj)
    if getattr(obj, "_is_protocol", False):
        return "", ""
    if not inspect.isclass(obj):
        function = getter or getattr(obj, "__func__", obj)
    elif hasattr(obj, "_fields") or "__dataclass_fields__" in vars(obj):
        return f"({', '.join(_fields(obj))})", ""
    else:
        function = obj.__init__
    definition = _definition(function)
    if definition is None:
        return None
    arguments = definition.args.posonlyargs or definition.args.args
    if arguments and arguments[0].arg in {"self", "cls", "draw"}:  # callers do not pass it
        del arguments[0]
    parameters = "" if getter else f"({ast.unparse(definition.args)})"
    return parameters, "" if definition.returns is None or inspect.isclass(obj) else ast.unparse(definition.returns)


def _getter(value):
    """The function of a property, even if it is a cached one."""
    return getattr(value, "fget", None) or (value.func if isinstance(value, functools.cached_property) else None)


def _fields(cls):
    """The fields of a named tuple or a data class, ``name: type = default``, those of its bases first."""
    found = {}
    for base in reversed(cls.__mro__):
        for node in getattr(_definition(base), "body", []):
            if isinstance(node, ast.AnnAssign) and "init=False" not in ast.unparse(node):
                default = "" if node.value is None else ast.unparse(node.value)
                default = "..." if default.startswith("field(") else default
                written = f"{node.target.id}: {ast.unparse(node.annotation)}"
                found[node.target.id] = written + f" = {default}" * bool(default)
    return found.values()


def _definition(value):
    """The syntax tree of a function or class of this package; None for those of other packages."""
    if not (getattr(value, "__module__", None) or "").startswith("tinyres"):
        return None
    tree = _source(value.__module__)
    parts = value.__qualname__.rpartition("<locals>.")[2].split(".")  # Hypothesis wraps a function in one of its own
    aliases = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id[0] == "_"
    }
    for part in parts:
        named = [node for node in tree.body if getattr(node, "name", None) == part]
        if not named:
            return None  # for example, a data class made it
        tree = named[0]
    return _Shown(aliases).visit(copy.deepcopy(tree))


@functools.cache
def _source(module):
    return ast.parse(inspect.getsource(importlib.import_module(module)))


class _Shown(ast.NodeTransformer):
    """Types for a reader: without quotation marks, and with the types that private names stand for."""

    def __init__(self, aliases):
        self.aliases = aliases

    def visit_arg(self, node):
        node.annotation = self.shown(node.annotation)
        return node

    def visit_AnnAssign(self, node):
        node.annotation = self.shown(node.annotation)
        return node

    def visit_FunctionDef(self, node):
        self.generic_visit(node.args)
        node.returns = self.shown(node.returns)
        return node

    def shown(self, annotation):
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = ast.parse(annotation.value, mode="eval").body
        return annotation and _Unalias(self.aliases).visit(annotation)


class _Unalias(ast.NodeTransformer):
    def __init__(self, aliases):
        self.aliases = aliases

    def visit_Name(self, node):
        return self.aliases.get(node.id, node)


def mark_types(app, doctree):
    """Mark types for `find_type`, since Sphinx would take any class of this name, and warn if there are two."""
    for signature in doctree.findall(addnodes.desc_signature):
        if signature.parent["objtype"] == "property":  # a property has no event for its signature
            owner = functools.reduce(
                getattr, signature["class"].split("."), importlib.import_module(signature["module"])
            )
            name = signature["fullname"].rpartition(".")[2]
            _, result = as_written(inspect.getattr_static(owner, name)) or ("", "")
            signature += addnodes.desc_annotation("", f": {result}" if result else "")
        for link in signature.findall(addnodes.pending_xref):
            link.attributes.pop("refspecific", None)
            link["in_signature"] = True
        for value in list(signature.findall(addnodes.desc_annotation)):
            if value.astext().startswith(" = ") and len(value.astext()) > 80:  # a table: read it in the source
                value.parent.remove(value)


def find_type(app, env, node, contnode):
    """The class that a type in a signature means: one on the same page, else the only one with this name."""
    if not node.get("in_signature"):
        return None
    python, end = env.get_domain("py"), "." + node["reftarget"]
    named = {entry.node_id: entry for name, entry in python.objects.items() if name.endswith(end) and not entry.aliased}
    here = [entry for entry in named.values() if entry.docname == node["refdoc"]]
    found = here or list(named.values())
    if len(found) != 1 or found[0].objtype not in {"class", "exception", "data"}:
        return None
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0].node_id, node, contnode)


# ---------------------------------------------------------------- sources
def find_sources(app, doctree):
    """Give viewcode the module that defines a name, and the name that it has there: of an inherited method, the base's.

    A property does not know these, but its function does. A name without a definition, such as a constant, has neither.
    """
    for signature in doctree.findall(addnodes.desc_signature):
        if signature.parent["domain"] != "py":
            continue
        value = importlib.import_module(signature["module"])
        for part in signature["fullname"].split("."):
            value = getattr(value, part, None)
        value = _getter(value) or value
        if hasattr(value, "__qualname__") and value.__module__.startswith("tinyres"):
            signature["module"] = value.__module__
            if "<locals>" not in value.__qualname__:  # Hypothesis wraps a function in one of its own
                signature["fullname"] = value.__qualname__


# ---------------------------------------------------------------- summaries
def summarise(app, doctree):
    """Put a table before the names of a module: the first line of each docstring, grouped by kind."""
    if not app.env.docname.startswith("api/"):
        return
    for section in list(doctree.findall(nodes.section)):
        entries = [node for node in section.children if isinstance(node, addnodes.desc)]
        if len(entries) < 2:
            continue
        by_kind = defaultdict(list)
        for entry in entries:
            by_kind[entry["objtype"]].append(entry)
        place = section.index(entries[0])
        place -= isinstance(section[place - 1], addnodes.index)
        section[place:place] = [_table(KINDS[kind], by_kind[kind]) for kind in KINDS if kind in by_kind]


def _table(kind, entries):
    group = nodes.tgroup("", nodes.colspec(colwidth=30), nodes.colspec(colwidth=70), cols=2)
    group += nodes.thead("", _row(nodes.paragraph("", kind), nodes.paragraph("", "In short")))
    body = nodes.tbody()
    for entry in entries:
        signature = entry[0]
        name = nodes.literal("", signature["fullname"], classes=["py", "py-obj"])
        link = nodes.reference("", "", name, refid=signature["ids"][0], internal=True)
        texts = [node for node in entry[-1].children if isinstance(node, nodes.paragraph)]
        body += _row(nodes.paragraph("", "", link), texts[0].deepcopy() if texts else nodes.paragraph())
    group += body
    return nodes.table("", group, classes=["summary"])


def _row(*cells):
    return nodes.row("", *(nodes.entry("", cell) for cell in cells))


# ---------------------------------------------------------------- the gym
def point_to_the_gym(app, what, name, obj, options, lines):
    """At the end of an operation, link to the levels of the gym in which its gradient is broken."""
    module, _, op = name.rpartition(".")
    levels = [str(level.number) for level in LEVELS if level.op == op]
    if module == "tinyres.ops" and levels:
        some = f"level {levels[0]}" if len(levels) == 1 else f"levels {', '.join(levels[:-1])} and {levels[-1]}"
        lines += ["", f"Practise its gradient: {some} of :doc:`the gym </gym>`.", ""]
