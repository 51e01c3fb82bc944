export const greeting = (): string => "from helper";
