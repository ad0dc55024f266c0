using System.Text;
using System.Text.Json.Nodes;
using Qwen.Runtime.Templates;

namespace Qwen.Runtime.Tests.Templates;

/// <summary>A hostile template fails with one clear error; it never hangs, overflows the stack or takes the memory.</summary>
public class TemplateSandboxTests
{
    public static TheoryData<string> Bombs =>
    [
        // Endless or exploding loops.
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) if b < 0 %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{{ range(99999) | list | sum }}{% endfor %}",
        "{% for a in range(99999) %}{{ range(99999) | map('string') | map('upper') | list | length }}{% endfor %}",
        "{{ range(10 ** 12) }}",
        "{{ range(0, 10 ** 30, 10 ** 28) | list }}",
        // Recursion.
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% macro m() %}{% for x in [1] %}{% if true %}{{ (((m()))) }}{% endif %}{% endfor %}{% endmacro %}{{ m() }}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{{ caller() }}{% endmacro %}{% call m() %}{% endcall %}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{% set ns = namespace(x=[], y=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
        // Shared structure that explodes when it is written or compared.
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x | tojson }}",
        "{% set ns = namespace(x=[], y=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
        "{% set ns = namespace(x=[], y=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x < ns.y }}",
        // Growth of strings, lists and numbers.
        "{{ 'x' * 10 ** 9 }}",
        "{{ 'x' * 10 ** 30 }}",
        "{{ [1] * 10 ** 9 }}",
        "{{ ('x' * 1000000) | replace('', 'y' * 1000) }}",
        "{{ ('x' * 1000000).replace('x', 'y' * 1000) }}",
        "{{ ('y' * 1000).join('x' * 1000000) }}",
        "{{ ('x' * 1000000) | join('y' * 1000) }}",
        "{{ ('x\n' * 100000) | indent(10000) }}",
        "{{ 'x' | indent(10 ** 12) }}",
        "{{ ['x'] | tojson(indent=10 ** 12) }}",
        "{{ ([[[1]]] * 1000) | tojson(indent=100000) }}",
        "{{ ('x ' * 1000000) | tojson(separators=('y' * 100000000, '')) }}{{ range(1000) | list | tojson(separators=('y' * 1000000, '')) }}",
        "{{ 'x'.zfill(10 ** 12) }}",
        "{{ 9 ** 9 ** 9 ** 9 ** 9 }}",
        "{{ 2 ** (2 ** 40) }}",
        "{% set ns = namespace(n=3) %}{% for i in range(60) %}{% set ns.n = ns.n * ns.n %}{% endfor %}{{ ns.n }}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% set s = 'x' * 1000000 %}{% for i in range(99999) %}{% set x = s ~ i %}{% endfor %}",
        "{% set s = 'x' * 1000000 %}{% for i in range(99999) %}{% set x = s.count('y') %}{% endfor %}",
        "{% set s = 'x' * 1000000 %}{% for i in range(99999) %}{% set x = s[-1] %}{% endfor %}",
        // Searches with quadratic worst cases.
        "{{ ('a' * 4000000).find('a' * 2000000 ~ 'b') }}",
        "{{ ('a' * 4000000).split('a' * 2000000 ~ 'b') | length }}",
        "{{ ('a' * 4000000).strip('b' * 4000000 ~ 'a') }}",
        "{{ int | int }}{{ ('9' * 100000) | int | string | length }}{{ [1] | sort(attribute='0.' * 1000000) }}{{ raise_exception('end') }}",
    ];

    [Theory]
    [MemberData(nameof(Bombs))]
    public void Render_StopsABomb_WithAnError(string source)
    {
        var template = new ChatTemplate(source, "bomb", []);

        var e = Assert.Throws<TemplateException>(() => template.Render([]));

        Assert.True(e.Line >= 1 && e.Column >= 1, e.Message);
    }

    /// <summary>What stands before the nest, each level's beginning, the middle, each level's end, and what stands behind.</summary>
    public static TheoryData<string, string, string, string, string> Nests => new()
    {
        { "{{ ", "(", "x", ")", " }}" }, { "{{ ", "[", "x", "]", " }}" }, { "{{ ", "{1:", "x", "}", " }}" }, { "{{ ", "f(", "x", ")", " }}" }, { "{{ ", "x[", "0", "]", " }}" },
        { "{{ ", "not ", "x", "", " }}" }, { "{{ ", "-", "1", "", " }}" }, { "{{ ", "1 if 1 else ", "2", "", " }}" },
        { "{{ ", "x|f(", "x", ")", " }}" }, { "{{ ", "x is y(", "x", ")", " }}" }, { "{{ x is y ", "[", "x", "]", " }}" }, { "{{ ", "f(a=", "x", ")", " }}" },
        { "{% for ", "(", "x", ")", " in y %}{% endfor %}" }, { "", "{% if x %}", "", "{% endif %}", "" }, { "", "{% for x in y %}", "", "{% endfor %}", "" },
        { "", "{% set x %}", "", "{% endset %}", "" }, { "", "{% macro m() %}", "", "{% endmacro %}", "" }, { "", "{% call m() %}", "", "{% endcall %}", "" },
        { "", "{% filter f %}", "", "{% endfilter %}", "" }, { "", "{% if x %}{% else %}", "", "{% endif %}", "" },
    };

    [Theory]
    [MemberData(nameof(Nests))]
    public void Parse_RefusesDeepNesting_AndTakesShallow(string before, string open, string middle, string close, string after)
    {
        var options = new TemplateOptions { MaxSourceLength = int.MaxValue };

        Exception? deep = OnSmallStack(() => new ChatTemplate(Nest(100_000), "nest", [], options));
        Exception? shallow = OnSmallStack(() => new ChatTemplate(Nest(30), "nest", [], options));

        Assert.Contains("levels deep", Assert.IsType<TemplateException>(deep).Message, StringComparison.Ordinal);
        Assert.Null(shallow);

        string Nest(int depth) => before + string.Concat(Enumerable.Repeat(open, depth)) + middle + string.Concat(Enumerable.Repeat(close, depth)) + after;
    }

    [Theory]
    [InlineData("{{ 1", " + 1", " }}")]
    [InlineData("{{ x", ".x", " }}")]
    [InlineData("{{ x", "|list", " }}")]
    [InlineData("{{ x", " is defined", " }}")]
    [InlineData("{{ x", " or x", " }}")]
    [InlineData("{{ x", "()", " }}")]
    public void Render_RefusesLongChains(string before, string link, string after)
    {
        string source = new StringBuilder(before).Insert(before.Length, link, 100_000).Append(after).ToString();

        Assert.Throws<TemplateException>(() => new ChatTemplate(source, "chain", []).Render([]));
    }

    [Fact]
    public void Render_WorksOnASmallStack_AtTheDeepestNesting()
    {
        const string Source = "{% macro m() %}{% for x in [1] %}{% if true %}{{ [[m()]] | map('first') | list | join }}{% endif %}{% endfor %}{% endmacro %}{{ m() }}";
        Exception? e = OnSmallStack(() => new ChatTemplate(Source, "deep", []).Render([]));

        Assert.Contains("levels deep", Assert.IsType<TemplateException>(e).Message, StringComparison.Ordinal);
    }

    /// <summary>What a thread throws that has a third of the usual stack.</summary>
    private static Exception? OnSmallStack(Func<object> action)
    {
        Exception? thrown = null;
        var thread = new Thread(() => thrown = Record.Exception(() => action()), 512 * 1024);
        thread.Start();
        thread.Join();
        return thrown;
    }

    [Fact]
    public void Parse_RefusesALongSource() =>
        Assert.Throws<TemplateException>(() => new ChatTemplate(new string('x', 101), "long", [], new TemplateOptions { MaxSourceLength = 100 }));

    [Fact]
    public void Render_RefusesDeepVariables()
    {
        JsonNode node = new JsonArray();
        for (int i = 0; i < 20_000; i++)
            node = new JsonArray(node);

        Assert.Throws<TemplateException>(() => new ChatTemplate("", "test", []).Render(new JsonObject { ["x"] = node }));
    }

    [Theory]
    [InlineData("""{"a": {"x": 1, "x": 2}}""")]
    [InlineData("""{"a": "\ud800"}""")]
    [InlineData("""{"\ud800": 1}""")]
    public void Render_RefusesUnsoundJson(string json)
    {
        var variables = JsonNode.Parse(json)!.AsObject();

        Assert.Throws<TemplateException>(() => new ChatTemplate("{{ a }}", "test", []).Render(variables));
    }

    [Fact]
    public void Error_NamesTemplateLineAndColumn()
    {
        var e = Assert.Throws<TemplateException>(() => new ChatTemplate("line\n  {{ messages[0].content.x.y }}", "chat.jinja", []).Render([]));
        var syntax = Assert.Throws<TemplateException>(() => new ChatTemplate("\n\n  {% if %}", "chat.jinja", []));

        Assert.Equal(("chat.jinja", 2, 14), (e.TemplateName, e.Line, e.Column));
        Assert.StartsWith("chat.jinja:2:14: ", e.Message, StringComparison.Ordinal);
        Assert.Equal((3, 9), (syntax.Line, syntax.Column));
        Assert.Null(e.RaisedMessage);
    }

    [Theory]
    [InlineData("{{ messages.append(1) }}")]
    [InlineData("{{ ''.__class__.__mro__ }}")]
    [InlineData("{{ messages.GetType() }}")]
    [InlineData("{{ range.Method.Invoke() }}")]
    [InlineData("{{ messages.__class__.__init__.__globals__ }}")]
    public void Render_ReachesNothingOutside(string source) =>
        Assert.Throws<TemplateException>(() => new ChatTemplate(source, "test", []).Render(new JsonObject { ["messages"] = new JsonArray() }));

    [Fact]
    public void Render_OfAMillionCharacters_StaysWithinTheDefaults()
    {
        const string Source = """
            {%- for m in messages %}{% set c = m.content | trim %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif -%}
            {{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% endfor -%}
            """;
        var messages = new JsonArray();
        for (int i = 0; i < 1000; i++)
            messages.Add(new JsonObject { ["role"] = "user", ["content"] = new string('x', 5000) });

        string text = new ChatTemplate(Source, "test", TemplateData.ControlTokens).RenderText(new JsonObject { ["messages"] = messages });

        Assert.True(text.Length > 5_000_000);
    }
}
