namespace Qwen.Emulation.Programs;

/// <summary>Where threads that part at a branch meet again: at the immediate post-dominator of the branch, the first instruction that all paths pass.</summary>
internal static class ControlFlow
{
    /// <summary>For each instruction its immediate post-dominator; -1 where paths meet only at the exit, or never.</summary>
    /// <param name="count">Instructions.</param>
    /// <param name="successors">What may follow an instruction; <paramref name="count"/> for the exit.</param>
    /// <remarks>Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm" (2001), on the reversed graph.</remarks>
    public static int[] PostDominators(int count, Func<int, (int First, int Second)> successors)
    {
        int exit = count;
        List<int>[] before = new List<int>[count + 1];
        for (int i = 0; i <= count; i++)
            before[i] = [];
        for (int i = 0; i < count; i++)
        {
            (int first, int second) = successors(i);
            before[first].Add(i);
            if (second >= 0 && second != first)
                before[second].Add(i);
        }

        // Post-order of the reversed graph, from the exit.
        int[] order = new int[count + 1];
        Array.Fill(order, -1);
        List<int> nodes = [];
        bool[] seen = new bool[count + 1];
        Stack<(int Node, int Next)> stack = new();
        stack.Push((exit, 0));
        seen[exit] = true;
        while (stack.TryPop(out (int Node, int Next) top))
        {
            if (top.Next < before[top.Node].Count)
            {
                stack.Push((top.Node, top.Next + 1));
                int next = before[top.Node][top.Next];
                if (!seen[next])
                {
                    seen[next] = true;
                    stack.Push((next, 0));
                }

                continue;
            }

            order[top.Node] = nodes.Count;
            nodes.Add(top.Node);
        }

        int[] dominator = new int[count + 1];
        Array.Fill(dominator, -1);
        dominator[exit] = exit;
        bool changed = true;
        while (changed)
        {
            changed = false;
            for (int n = nodes.Count - 2; n >= 0; n--)
            {
                int node = nodes[n];
                (int first, int second) = successors(node);
                int found = -1;
                foreach (int next in (ReadOnlySpan<int>)[first, second])
                {
                    if (next >= 0 && dominator[next] >= 0)
                        found = found < 0 ? next : Meet(found, next);
                }

                if (dominator[node] != found)
                {
                    dominator[node] = found;
                    changed = true;
                }
            }
        }

        int[] result = new int[count];
        for (int i = 0; i < count; i++)
            result[i] = dominator[i] == exit ? -1 : dominator[i];
        return result;

        int Meet(int a, int b)
        {
            while (a != b)
            {
                while (order[a] < order[b])
                    a = dominator[a];
                while (order[b] < order[a])
                    b = dominator[b];
            }

            return a;
        }
    }
}
