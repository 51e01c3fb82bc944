#nullable enable
static class Helper {
    public static string Greeting(string? name = null) => $"from {name ?? "helper"}";
}
